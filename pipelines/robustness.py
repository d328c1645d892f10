"""How a classifier of ImageNet's tokens stands shifts: ImageNet-R, ImageNet-Sketch, ObjectNet.

    python -m pipelines.robustness --imagenet-r imagenet-r --sketch sketch

Goes on in the folder of pipelines.imagenet1k, -o if that was asked to work elsewhere. Each set is a
folder of synset folders whose pictures go through the tokenizer of the run's store, with its codes.
--run judges another run.

hours     tokenizing 30,000 (ImageNet-R), 50,889 (Sketch) pictures at 44/s, SeiT's rate on an A100:
          0.2 and 0.3 GPU hours; not measured here
disk      nothing but the sets
expected  clean/noise/blur/ImageNet-R/Sketch/ObjectNet: SeiT 74.0/50.7/62.6/25.5/22.6/15.7, SeiT++
          without masked modelling 75.5/58.6/66.8/30.2/27.7/18.3 (SeiT++, robustness). Not measured
          by this project. Of the model with masked modelling, which pipelines.imagenet1k makes,
          nobody published them
source    SeiT++ (arXiv 2312.10105)
"""

from pathlib import Path

import click

from pipelines.steps import Published, Request, Step, evaluate, pipeline, run

SHIFTS = {"imagenet-r": "0.302", "sketch": "0.277"}  # SeiT++ without masked modelling
CLEAN = "0.755"
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def steps(request: Request, judged: str, sets: dict[str, Path]) -> list[Step]:
    """One evaluation of the clean images, and one for each set."""
    weights = ("--weights", request.weights) if request.weights else ()
    found = [evaluate("clean", judged, "--store", "in1k.tokenstore")]
    for name, folder in sets.items():
        found.append(evaluate(name, judged, "--images", str(folder.absolute()), *weights))
    return found


@click.command()
@click.option("--run", "judged", default="runs/mtm-classify", show_default=True)
@click.option("--imagenet-r", type=FOLDER, help="Folder of synset folders.")
@click.option("--sketch", type=FOLDER, help="Folder of synset folders.")
@pipeline("imagenet1k", without=("settings", "tokenizer", "image_size", "recipe", "gpus"))
def main(request: Request, judged: str, imagenet_r: Path | None, sketch: Path | None) -> None:
    """Judge a run of pipelines.imagenet1k on shifted sets.

    Example: python -m pipelines.robustness --sketch sketch --dry-run
    """
    given = {"imagenet-r": imagenet_r, "sketch": sketch}
    sets = {name: folder for name, folder in given.items() if folder}
    said = "SeiT++ without masked modelling, robustness"
    published = [Published("clean", "top1", f"{CLEAN} ({said})")]
    published += [Published(name, "top1", f"{SHIFTS[name]} ({said})") for name in sets]
    run(request, steps(request, judged, sets), published)


if __name__ == "__main__":
    main()
