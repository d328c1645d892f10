"""SeiT and SeiT++ on shares of ImageNet-1k's tokens: the low-storage table of SeiT++.

    python -m pipelines.low_storage --gpus 8 --method seitpp

Goes on in the folder of pipelines.imagenet1k, -o if that was asked to work elsewhere. For each
share of the images, chosen class by class with one seed: a model of their tokens (as many steps as
with all of them), and with --pixels the same model on as large a share of the pixels. Bytes are
those of `tokenstore info` times the share. Other ways to store less, for any folder of images:
pipelines.storage_tradeoff.

hours     each share trains as long as all of ImageNet-1k: not measured
disk      nothing but the runs, about 2 GB each (two a share for --method seitpp)
expected  at 1.1/0.8/0.5/0.3 GB, about 0.8/0.6/0.4/0.2 of the images: SeiT 70.2/66.3/59.7/47.2,
          SeiT++ 76.5/74.1/70.0/60.6 top-1 (SeiT++, low-storage results); all images 74.0 and 77.8.
          Not measured by this project
source    SeiT++ (arXiv 2312.10105); recipes seit_vitb_limited, seitpp_vitb_limited,
          seit_vitb_pixels
"""

import click

from pipelines.steps import Published, Request, Step, evaluate, pipeline, run

TOP1 = {
    "seit": {"0.8": "0.702", "0.6": "0.663", "0.4": "0.597", "0.2": "0.472"},
    "seitpp": {"0.8": "0.765", "0.6": "0.741", "0.4": "0.700", "0.2": "0.606"},
}
PIXEL_STEPS = 250_200  # 100 epochs of ImageNet-1k in batches of 512, as the recipe has it
STORE = "in1k.tokenstore"


def steps(request: Request, method: str, pixels: bool) -> list[Step]:
    """A look at the bytes, and for each share one model or two with their evaluations."""
    recipe = {"seit": "seit_vitb_limited", "seitpp": "seitpp_vitb_limited"}[method]
    found = [Step("bytes", ("tokenstore", "info", STORE, "--json"))]
    for share in TOP1[method]:
        take = (f"data.fraction={share}", "data.fraction_seed=0")
        name = f"{method}-{share}"
        start: tuple[str, ...] = ()
        if method == "seitpp":
            found.append(request.train("mtm", STORE, f"runs/{name}-mtm", recipe, *take))
            start = ("--init", f"runs/{name}-mtm")
        found.append(request.train("classify", STORE, f"runs/{name}", recipe, *start, *take))
        found.append(evaluate(f"evaluate-{name}", f"runs/{name}", "--store", STORE))
        if pixels:
            name, length = f"pixels-{share}", ("epochs=null", f"steps={PIXEL_STEPS}")
            words = ("pixels", "images", f"runs/{name}", "seit_vitb_pixels", *length, *take)
            found.append(request.train(*words))
            found.append(evaluate(f"evaluate-{name}", f"runs/{name}", "--images", "images"))
    return found


@click.command()
@click.option("--method", default="seitpp", show_default=True, type=click.Choice(sorted(TOP1)))
@click.option("--pixels", is_flag=True, help="The same shares of the pixels, too.")
@pipeline("imagenet1k", without=("tokenizer", "weights", "image_size"))
def main(request: Request, method: str, pixels: bool) -> None:
    """Accuracy against bytes, on shares of ImageNet-1k's tokens.

    Example: python -m pipelines.low_storage --method seit --dry-run
    """
    published = [
        Published(f"evaluate-{method}-{share}", "top1", f"{top1} (SeiT++, low-storage results)")
        for share, top1 in TOP1[method].items()
    ]
    run(request, steps(request, method, pixels), published)


if __name__ == "__main__":
    main()
