"""Checkpoints in and out: published folders, and our own."""

from .load import load as load
from .manifest import read_manifest as read_manifest
from .output_folder import check_output as check_output, check_writable as check_writable
from .write import save as save
