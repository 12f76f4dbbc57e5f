import json

import pytest

from tests.helpers.images import write_folder, write_model


def test_prune_evaluate_and_predict_images(cli, tmp_path):
    pytest.importorskip("PIL", reason="image files are read by Pillow")
    model, data = write_model(tmp_path / "model"), write_folder(tmp_path / "data", {"train": 64, "validation": 16})
    base = ("--model", model, "--task", "images", "--data", data)
    calibrated = ("--calibration-samples", 64, "--remove", 0.3)
    result = cli.json("prune", *base, *calibrated, "--method", "magnitude", "--out", tmp_path / "small")
    assert result.code == 0 and result.data["examples"] == 16 and result.data["budget"]["length"] == 10
    scored = cli.json("evaluate", "--model", tmp_path / "small", "--task", "images", "--data", data)
    assert scored.data["score"] == result.data["score"]
    files = sorted(map(str, (data / "validation").glob("*/*.png")))
    said = cli.json("predict", "--model", tmp_path / "small", "--images", *files)
    lines = said.data["predictions"]
    assert [line["image"] for line in lines] == files and said.data["texts"] == 16
    right = [line["label"] == line["image"].split("/")[-2] for line in lines]
    assert sum(right) / 16 == scored.data["score"]
    shown = cli.json("inspect", "--model", tmp_path / "small")
    assert shown.data["length"] == 10 and shown.data["patches"]["patch_height"] == 2
    assert "6 x 6 pixels in 3 channels, patches of 2 x 2, 10 tokens" in cli("inspect", "--model", model).out
    alone = ("--model", model, "--method", "random", "--remove", 0.3)
    assert cli.json("prune", *alone, "--out", tmp_path / "alone").code == 0  # made-up images check the cut
    one = data / "validation"
    aside = cli.json("evaluate", "--model", model, "--task", "images", "--data", one, "--set-aside", 0.5)
    assert aside.data["examples"] == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate", "--task", "images", "--data", "MISSING"), "MISSING does not exist"),
        (("evaluate", "--task", "images", "--data", ".", "--seq-len", "8"), "a length (8) has no effect on images"),
        (("predict", "--text", "a text"), "reads images; give them by --images"),
        (("predict", "--images", "a.png", "--text", "a"), "images from --images FILE; give one of them"),
        (("predict", "--images", "missing.png"), "image 0, missing.png, is not a file"),
        (("evaluate", "--task", "sts", "--data", ".", "--set-aside", "3"), "belongs to --task chat, pairs and images"),
    ],
)
def test_what_is_refused_in_one_line(cli, tmp_path, words, message):
    model = write_model(tmp_path / "model")
    result = cli(words[0], "--model", model, *words[1:])
    assert result.code == 2 and message in result.err and len(result.err.strip().splitlines()) == 1
    told = json.loads(cli(words[0], "--model", model, *words[1:], "--json").out)
    assert message in told["error"]
