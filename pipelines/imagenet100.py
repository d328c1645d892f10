"""SeiT++ on ImageNet-100 with a ViT-S/16: the papers' ablations, at a tenth of the storage.

    python -m pipelines.imagenet100 IMAGENET synsets.txt --weights imagenet_vitvq_base.ckpt --gpus 8

The first word of each line of synsets.txt is a synset. The papers do not print their hundred; name
the list that you compare with.

hours     tokenizing: 0.13 M images at 44/s, SeiT's rate on an A100, are 0.8 GPU hours, and
          TokenAdapt's 1 M pairs 13. Training keeps the steps of ImageNet-1k: not measured
disk      store about 0.15 GB, pairs about 2.5 GB, two runs of ViT-S about 0.7 GB each
expected  83.5 top-1; 85.4 with VQGAN tokens (SeiT++, ablation). Not measured by this project
source    SeiT++ (arXiv 2312.10105); recipe seitpp_vits_in100
"""

from pathlib import Path

import click

from pipelines.steps import Published, Request, Step, evaluate, pipeline, run

RECIPE = "seitpp_vits_in100"
STORE = "in100.tokenstore"
PUBLISHED = [Published("evaluate", "top1", "0.835 (SeiT++, ablation on ImageNet-100)")]


def steps(request: Request, imagenet: Path, synsets: Path) -> list[Step]:
    """From ImageNet and a list of synsets to the metrics of a fine-tuned ViT-S/16."""
    return [
        request.prepare("imagenet", imagenet.absolute(), "--synsets", synsets.absolute()),
        *request.build("images", STORE),
        request.adapt("images/train", RECIPE),
        request.train("mtm", STORE, "runs/mtm", RECIPE),
        request.train("classify", STORE, "runs/mtm-classify", RECIPE, "--init", "runs/mtm"),
        evaluate("evaluate", "runs/mtm-classify", "--store", STORE),
    ]


@click.command()
@click.argument("imagenet", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("synsets", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@pipeline("imagenet100")
def main(request: Request, imagenet: Path, synsets: Path) -> None:
    """SeiT++ on a hundred classes of ImageNet.

    Example: python -m pipelines.imagenet100 imagenet synsets.txt --dry-run
    """
    run(request, steps(request, imagenet, synsets), PUBLISHED)


if __name__ == "__main__":
    main()
