"""A program that prints, as JSON, what torch says of itself and of the GPUs (`gpu.Torch`)."""

import json
import sys
import warnings

import torch


def main() -> None:
    """Print it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    gpus = range(torch.cuda.device_count()) if usable else ()
    facts = {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "usable": usable,
        "why": "; ".join(str(each.message) for each in caught),
        "built_for": torch.cuda.get_arch_list() if usable else [],
        "capabilities": [torch.cuda.get_device_capability(gpu) for gpu in gpus],
    }
    sys.stdout.write(json.dumps(facts))


if __name__ == "__main__":
    main()
