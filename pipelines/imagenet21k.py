"""SeiT's three stages: ImageNet-21k tokens, then ImageNet-1k tokens, then ImageNet-1k pixels.

    python -m pipelines.imagenet21k IMAGENET21K IMAGENET --weights imagenet_vitvq_base.ckpt --gpus 8

IMAGENET21K is a folder of synset folders; IMAGENET as for pipelines.imagenet1k. ImageNet-1k is
tokenized with the codes of the first store, so that a rank means the same in both. On a cluster,
build the first store with pipelines/cluster/ in the same folder; this pipeline then finds it
finished.

hours     tokenizing: 1.1 h on 64 A100 for ImageNet-21k (SeiT), 8.4 GPU hours for ImageNet-1k at
          that rate. Training: not measured
disk      stores about 1.1 kB an image: 13 GB for 11 M images, 1.4 GB for ImageNet-1k; three runs of
          ViT-B about 2 GB each
expected  81.1 top-1 after the second stage, 82.8 after the third; 82.6 without the second (SeiT,
          table 3). Not measured by this project
source    SeiT (arXiv 2303.11114), tables 3 and B.1; recipes seit_vitb_in21k, seit_vitb_in21k_in1k,
          seit_vitb_pixels
"""

from pathlib import Path

import click

from pipelines.steps import Published, Request, Step, evaluate, pipeline, run

FIRST, SECOND = "in21k.tokenstore", "in1k.tokenstore"
PUBLISHED = [
    Published("evaluate-tokens", "top1", "0.811 (SeiT, table 3)"),
    Published("evaluate-pixels", "top1", "0.828 (SeiT, table 3)"),
]


def steps(request: Request, imagenet21k: Path, imagenet: Path) -> list[Step]:
    """Two stores of one vocabulary, and a training a stage, each from the one before."""
    from_first, from_second = ("--init", "runs/in21k"), ("--init", "runs/in1k")
    return [
        *request.build(imagenet21k.absolute(), FIRST),
        request.train("classify", FIRST, "runs/in21k", "seit_vitb_in21k"),
        request.prepare("imagenet", imagenet.absolute()),
        *request.build("images", SECOND, "--vocabulary", FIRST),
        request.train("classify", SECOND, "runs/in1k", "seit_vitb_in21k_in1k", *from_first),
        evaluate("evaluate-tokens", "runs/in1k", "--store", SECOND),
        request.train("pixels", "images", "runs/pixels", "seit_vitb_pixels", *from_second),
        evaluate("evaluate-pixels", "runs/pixels", "--images", "images"),
    ]


@click.command()
@click.argument("imagenet21k", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("imagenet", type=click.Path(exists=True, file_okay=False, path_type=Path))
@pipeline("imagenet21k")
def main(request: Request, imagenet21k: Path, imagenet: Path) -> None:
    """SeiT's three stages, from ImageNet-21k tokens to ImageNet-1k pixels.

    Example: python -m pipelines.imagenet21k imagenet21k imagenet --limit 100 --dry-run
    """
    run(request, steps(request, imagenet21k, imagenet), PUBLISHED)


if __name__ == "__main__":
    main()
