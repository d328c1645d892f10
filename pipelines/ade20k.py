r"""Segmentation of ADE20k from tokens: UPerNet on a ViT-B/16 that learnt from ImageNet's tokens.

    python -m pipelines.ade20k ADEChallengeData2016 --pretrained out/imagenet1k \
        --weights imagenet_vitvq_base.ckpt --gpus 8

--pretrained is the folder of a finished pipelines.imagenet1k: the run runs/mtm is where the weights
come from, its store gives the codes (a model knows no others), its runs/adapt moves places. Without
it, the model starts from nothing and crops are the only augmentation; nobody published that.

hours     tokenizing 22,210 images of 512x512, four times the pixels of ImageNet's: not measured.
          Training 80,000 steps: not measured
disk      store about 0.1 GB of tokens and the masks (lossless, not measured), a run about 2.5 GB
expected  mIoU 43.2; 39.0 with SeiT's augmentations (SeiT++, section 4.2). Not measured by this
          project
source    SeiT++ (arXiv 2312.10105); recipe ade20k_upernet_vitb
"""

from pathlib import Path

import click

from pipelines.steps import Published, Request, Step, evaluate, pipeline, run

RECIPE = "ade20k_upernet_vitb"
STORE = "ade20k.tokenstore"
GRID = 64
PUBLISHED = [Published("evaluate", "miou", "0.432 (SeiT++, section 4.2)")]


def steps(request: Request, ade20k: Path, pretrained: Path | None) -> list[Step]:
    """From ADEChallengeData2016 to mIoU."""
    options: tuple[str, ...] = ("--source", "ade20k")
    if request.image_size is None:
        options += ("--image-size", "512")
    start: tuple[str, ...] = ()
    if pretrained:
        home = pretrained.absolute()
        options += ("--vocabulary", str(home / "in1k.tokenstore"))
        start = ("--init", str(home / "runs/mtm"))
        if request.recipe is None:
            adapt = f"{{token_adapt: {{weights: '{home}/runs/adapt', size: {GRID}}}}}"
            start += (f"augment=[{adapt}]",)
    return [
        *request.build(ade20k.absolute(), STORE, *options),
        request.train("segment", STORE, "runs/segment", RECIPE, *start),
        evaluate("evaluate", "runs/segment", "--store", STORE),
    ]


@click.command()
@click.argument("ade20k", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--pretrained", type=click.Path(exists=True, file_okay=False, path_type=Path))
@pipeline("ade20k")
def main(request: Request, ade20k: Path, pretrained: Path | None) -> None:
    """Segmentation of ADE20k from tokens, from the unpacked images to mIoU.

    Example: python -m pipelines.ade20k ADEChallengeData2016 --dry-run
    """
    run(request, steps(request, ade20k, pretrained), PUBLISHED)


if __name__ == "__main__":
    main()
