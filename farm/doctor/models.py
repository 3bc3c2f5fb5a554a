"""Checks of the models that the farm offers: their files, and the licences of gated ones."""

import re
from pathlib import Path

from farm.doctor.check import Context, Finding, Findings, failed, ok, unknown, warning
from farm.settings import Settings
from svd_engine.variants import HUB_NAMES, NANO, variants_of


def models(context: Context) -> Findings:
    """Whether the files of each model are whole, and what their digest is."""
    settings = context.need_settings()
    for name in settings.models:
        folder = _folder(name)
        if folder is not None:
            yield from _files(name, folder)
        elif name == "tiny":
            yield ok("tiny is made when it is first asked for.")
        elif _hub_id(name):
            yield unknown(
                f"{name} is not on this machine: each node downloads it when it first needs it.",
                "Nothing needs to be done if the hub gives it, which the check of licences tells.",
            )
        else:
            yield failed(f"There is no model {name!r}.", "Correct FARM_MODELS.")


def licences(context: Context) -> Findings:
    """Whether the hub gives this machine the models that are not here."""
    settings = context.need_settings()
    absent = [name for name in settings.models if _folder(name) is None]
    asked = {name: hub_id for name in absent if (hub_id := _hub_id(name))}
    if not asked:
        yield ok("All models are on this machine, or in the package.")
    for name, hub_id in asked.items():
        yield _licence(name, hub_id, settings)


def _folder(name: str) -> Path | None:
    """The model's folder on this machine; None if there is none."""
    if name == "nano":
        return NANO
    if Path(name).is_dir():
        return Path(name)
    hub_id = _hub_id(name)
    if hub_id is None:
        return None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except Exception:  # the client raises errors of its own and of others for a missing snapshot
        return None


def _hub_id(name: str) -> str | None:
    """The model's name on the hub, owner/name; None if it cannot be one of the hub's."""
    hub_id = HUB_NAMES.get(name, name)
    is_id = re.fullmatch(r"\w[\w.-]*/[\w.-]+", hub_id, re.ASCII)
    return hub_id if is_id else None


def _files(name: str, folder: Path) -> Findings:
    from svd_engine.checkpoint import Checkpoint  # torch is slow to load
    from svd_engine.config_files import CheckpointError

    variants = variants_of(str(folder)) or frozenset({None})
    for variant in sorted(variants, key=str):
        checkpoint = Checkpoint(folder, variant)
        what = f"{name} ({variant})" if variant else name
        try:
            checkpoint.check()
            digest = checkpoint.digest
        except (CheckpointError, OSError) as error:
            yield failed(
                f"The files of {what} are not whole: {error}.",
                f"Put them back. If they are of the hub, delete {folder}: they are fetched again.",
            )
            continue
        yield ok(f"The files of {what} are whole; their digest is {digest[:16]}.")


def _licence(name: str, hub_id: str, settings: Settings) -> Finding:
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if HF_HUB_OFFLINE:
        return unknown(f"The hub was not asked for {name}, since HF_HUB_OFFLINE is set.")
    # A model that nobody named is offered by default, and may be missing.
    serious = failed if "models" in settings.model_fields_set else warning
    token = "HF_TOKEN" if get_token() else "no token (set HF_TOKEN, or run hf auth login)"
    try:
        HfApi().auth_check(hub_id)
    except GatedRepoError:
        return serious(
            f"The hub does not give {hub_id} to this machine, which has {token}.",
            f"Accept the licence at https://huggingface.co/{hub_id} with the token's account.",
        )
    except RepositoryNotFoundError:
        return serious(
            f"The hub knows no {hub_id}, or does not show it to this machine, which has {token}.",
            "Correct FARM_MODELS, or take a token that may read it.",
        )
    except (HfHubHTTPError, OSError, RuntimeError) as error:
        return unknown(f"The hub did not answer about {name}: {error}.")
    except Exception as error:  # of the HTTP library, which the hub's client has changed before
        return unknown(f"The hub did not answer about {name}: {type(error).__name__}: {error}.")
    return ok(f"The hub gives {hub_id} to this machine.")
