"""Whether the hub can be asked for a model at all, before its client asks six times over, for most of a minute."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from pathlib import Path


def unreachable(name: str) -> str:
    """Why a model cannot be had from the hub: nobody answers there. Empty where it may be.

    What was downloaded before, offline mode, and a hub that is slow to answer are the client's own business.
    Environment variables of the client count: `HF_ENDPOINT`, `HF_HUB_ETAG_TIMEOUT` (seconds to wait for a connection),
    `HF_HUB_OFFLINE`, `HF_HUB_CACHE`, and those of proxies.

    Args:
        name: of the model, or a folder.
    """
    from huggingface_hub import constants

    kept = Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "snapshots")
    if Path(name).is_dir() or kept.is_dir() or constants.HF_HUB_OFFLINE:
        return ""
    try:
        ask = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310  # the user's own setting
        urllib.request.urlopen(ask, timeout=constants.HF_HUB_ETAG_TIMEOUT).close()  # noqa: S310
    except urllib.error.HTTPError:
        return ""  # somebody answers
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):  # the client may trust other certificates
            return ""
        reason = getattr(error.reason, "strerror", None) or error.reason
        return f"{constants.ENDPOINT} cannot be reached ({reason}), and no download of it is kept here; name a folder"
    except (OSError, ValueError):  # a slow answer, or a broken one
        return ""
    return ""
