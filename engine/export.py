"""`python -m engine.export MODEL`: a trained model as ONNX or as a PyTorch program."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import ConfigManager, UserError
from engine.cli import Parser, add_config_options, model_path, run_command, set_values

if TYPE_CHECKING:
    from engine.inference.predictor import Predictor

FORMATS = ("onnx", "torch")
CHECKED = 200  # images that the file and the bundle are compared on


def main(arguments: list[str] | None = None) -> int:
    """0 when the file was written. Raises UserError."""
    return export(parser().parse_args(arguments))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = Parser(
        prog="python -m engine.export",
        description="Write a trained model for other programs: 8-bit grey pixels in, calibrated "
        "score out, labels and operating point in the metadata. The file gets its name only when "
        "it has given the same scores as the bundle.",
    )
    command.add_argument("model", type=Path, help="a bundle, best_model.pt, or a run's number")
    command.add_argument("--format", choices=FORMATS, default="onnx", help="default: %(default)s")
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="default: beside the bundle, model.onnx or .pt2"
    )
    command.add_argument(
        "--check", type=Path, nargs="+", metavar="PATH", help="image files or folders to compare "
        "on, as many as are found, at most 200; default: synthetic images",
    )  # fmt: skip
    add_config_options(command)
    return command


def export(options: argparse.Namespace) -> int:
    """Export, check, name. Raises UserError."""
    from engine.inference.export import ENDINGS, export_model
    from engine.inference.predictor import load_model

    config = ConfigManager.load(options.config, overrides=set_values(options.set))
    bundle = model_path(options.model, config)
    model = load_model(bundle, device="cpu")
    out = options.out or bundle.with_name(f"model{ENDINGS[options.format]}")
    if options.check:
        images, kind = _read(model, options.check), "images"
    else:
        images, kind = _drawn(model.image_size), "synthetic images (--check takes real ones)"
    difference = export_model(model, options.format, out, images)
    print(f"{out}: the same decisions as the bundle on {len(images)} {kind}, scores within "
          f"{difference:.1e}")  # fmt: skip
    return 0


def _read(model: Predictor, paths: list[Path]) -> Any:
    """uint8 [N, S, S]. Raises UserError where no image can be read."""
    import numpy as np

    from engine.inference.files import image_files

    images: list[Any] = []
    for file in image_files(paths):
        image = model.read(file)
        if not isinstance(image, str):
            images.append(image)
        if len(images) == CHECKED:
            break
    if not images:
        raise UserError(f"--check: no image can be read in {', '.join(map(str, paths))}")
    return np.stack(images)


def _drawn(size: int) -> Any:
    """Phantoms, ill and well, uint8 [32, S, S]."""
    import numpy as np

    from engine.data.decode import resize
    from engine.data.phantoms import draw, new_build

    rng = np.random.default_rng(0)
    drawn = [draw(new_build(rng), n % 2 == 1, max(size, 96), rng) for n in range(32)]
    return np.stack([resize(image, size) for image in drawn])


if __name__ == "__main__":
    run_command(main)
