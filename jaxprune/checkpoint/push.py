"""`push`: a folder that jaxprune wrote, to the Hugging Face hub."""

from pathlib import Path

from ..checks import checked
from ..doubts import tell
from ..errors import OutputError, SettingsError
from .card import CARD
from .files import listed, one_line
from .manifest import EXPORTED, MANIFEST
from .output_folder import names_in, written_by_us


@checked
def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    message: str | None = None,
) -> str:
    """Upload a folder that `save` or `export` wrote to the model repository `repo_id`, "name" or "org/name".

    The repository is made where there is none, `private` where that is asked for; one that is there keeps what it is.
    Files that jaxprune did not write stay here, with a warning that names them; the card goes along as it stands,
    edited or not. `token` is that of the hub (None: the one that `hf auth login` stored). Gives the address of the
    commit. Raises `SettingsError` for what is no name of a repository, `OutputError` for a folder that is none of ours
    and where the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    folder = Path(folder)
    marks = [name for name in (MANIFEST, EXPORTED) if (folder / name).is_file()]
    if not marks:
        raise OutputError(f"{folder} is no folder that jaxprune wrote; save or export the model first.")
    present = sorted(names_in(folder))
    ours = [name for name in present if name == CARD or name in written_by_us(folder, present)]
    others = [name for name in present if name not in ours]
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=ours,
            revision=revision,
            commit_message=message or "Upload a model from jaxprune",
        )
    except HFValidationError as error:
        raise SettingsError(f"{repo_id!r} is no name of a repository ({one_line(error)}); write org/name.") from error
    except Exception as error:  # the hub's client raises errors of several packages, for network, login and disk
        raise OutputError(
            f"{repo_id} cannot be written ({one_line(error)}); check the name, the network and the token of the hub."
        ) from error
    if others:
        tell([f"{folder} also holds {listed(others)}, which jaxprune did not write: not uploaded."])
    return str(commit.commit_url)
