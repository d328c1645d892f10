"""Any folder of images: a store with its page, masked modelling, a classifier, a page on both.

    python -m pipelines.own_images photos                                        # here, on a CPU
    python -m pipelines.own_images photos --recipe gpu_small --image-size 256    # on a GPU

photos/ holds class folders, or train/ and val/ with them; --unlabelled says that it is just images,
and leaves the classifier out. What is val is chosen by seed where there is no val/.

hours     2,850 photos at 128x128 on two cores of a Xeon: 0.01 to build, 0.11 mtm, 0.12 classify
disk      store about 300 bytes an image (16x16 tokens of `pocket`), runs about 0.1 GB
expected  on those photos, 10 classes of ImageNet: masked loss 12.0% below the unigram entropy,
          top-1 60.0% (README, "Training"). Yours: not measured
source    this project; recipe cpu_tiny
"""

from pathlib import Path

import click

from pipelines.steps import Request, Step, evaluate, pipeline, run

RECIPE = "cpu_tiny"
STORE = "images.tokenstore"


def steps(request: Request, images: Path, unlabelled: bool) -> list[Step]:
    """From a folder of images to trained models and two pages."""
    size = () if request.image_size else ("--image-size", "128")
    page = ("tokenstore", "report", STORE, "--images", "images", "-o", "store.html")
    found = [
        request.prepare("own", images.absolute()),
        *request.build("images", STORE, *size),
        Step("store-page", page, "store.html"),
        request.train("mtm", STORE, "runs/mtm", RECIPE),
    ]
    runs = ["runs/mtm"]
    if not unlabelled:
        start = ("--init", "runs/mtm")
        found.append(request.train("classify", STORE, "runs/classify", RECIPE, *start))
        found.append(evaluate("evaluate", "runs/classify", "--store", STORE))
        runs.append("runs/classify")
    about = ("seit-train", "report", *runs, "-o", "runs.html")
    return [*found, Step("runs-page", about, "runs.html")]


@click.command()
@click.argument("images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--unlabelled", is_flag=True, help="The images have no classes.")
@pipeline("own_images", tokenizer="pocket")
def main(request: Request, images: Path, unlabelled: bool) -> None:
    """Your own images: a store, two trainings, two pages.

    Example: python -m pipelines.own_images photos --limit 50
    """
    run(request, steps(request, images, unlabelled))


if __name__ == "__main__":
    main()
