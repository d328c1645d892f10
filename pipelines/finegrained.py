"""SeiT++ on fine-grained sets: Flowers, Cars, iNaturalist 2018 and 2019.

    python -m pipelines.finegrained flowers FOLDER --weights imagenet_vitvq_base.ckpt --gpus 8

FOLDER is the set as it is unpacked (pipelines/prepare/finegrained.py shows each layout). Train and
test are the published lists: Flowers learns from its 2,040 images of train and val, and is judged
on its 6,149 of test; Cars 8,144 and 8,041.

hours     tokenizing: at 44 images/s, SeiT's rate on an A100, minutes for Flowers and Cars, 2.9 GPU
          hours for iNaturalist 2018, 1.7 for 2019. Training keeps the steps of ImageNet-1k: not
          measured
disk      store about 1.1 kB an image (0.01 GB Flowers, 0.02 Cars, 0.5 iNat18, 0.3 iNat19),
          TokenAdapt's pairs sixteen times that; two runs of ViT-B about 2 GB each
expected  top-1 on Flowers 95.2, Cars 86.9, iNat18 52.4, iNat19 58.9; SeiT 93.5, 79.7, 43.1, 50.1
          (SeiT++, fine-grained results). Not measured by this project
source    SeiT++ (arXiv 2312.10105); recipe seitpp_vitb_finegrained
"""

from pathlib import Path

import click

from pipelines.steps import Published, Request, Step, evaluate, pipeline, run

RECIPE = "seitpp_vitb_finegrained"
TOP1 = {"flowers": "0.952", "cars": "0.869", "inat18": "0.524", "inat19": "0.589"}


def steps(request: Request, name: str, corpus: Path) -> list[Step]:
    """From an unpacked set to the metrics of a fine-tuned ViT-B/16."""
    store = f"{name}.tokenstore"
    # Masked modelling's batch of 4,096 is more than Flowers has: each image comes several times.
    repeats = ("data.repeats=4",) if name == "flowers" and request.recipe is None else ()
    return [
        request.prepare("finegrained", name, corpus.absolute()),
        *request.build("images", store),
        request.adapt("images/train", RECIPE),
        request.train("mtm", store, "runs/mtm", RECIPE, *repeats),
        request.train("classify", store, "runs/mtm-classify", RECIPE, "--init", "runs/mtm"),
        evaluate("evaluate", "runs/mtm-classify", "--store", store),
    ]


@click.command()
@click.argument("name", metavar="SET", type=click.Choice(sorted(TOP1)))
@click.argument(
    "corpus", metavar="FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@pipeline("finegrained-{name}")
def main(request: Request, name: str, corpus: Path) -> None:
    """SeiT++ on SET: flowers, cars, inat18 or inat19.

    Example: python -m pipelines.finegrained flowers flowers102 --dry-run
    """
    published = [Published("evaluate", "top1", f"{TOP1[name]} (SeiT++, fine-grained results)")]
    run(request, steps(request, name, corpus), published)


if __name__ == "__main__":
    main()
