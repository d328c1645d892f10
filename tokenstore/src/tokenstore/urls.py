"""URLs of object storage: which places are some, and that none of them holds a credential.

URLs are printed in messages and logs, so passwords, tokens and signatures do not belong into them;
each file system of fsspec reads its own from the environment.
"""

from urllib.parse import urlsplit

from tokenstore.errors import UsageError

_SECRETS = ("signature", "token", "secret", "credential", "password", "sig=")
_USERS = ("abfs", "abfss", "ssh", "sftp")  # where user@host is a place and no password is in it


def is_remote(place: str) -> bool:
    """Whether a place is a URL and no folder of this machine."""
    return "://" in place and not place.startswith("file://")


def refuse_secrets(url: str) -> None:
    """Refuse a URL with a password or a signature in it; the message does not repeat it.

    Raises:
        UsageError: says what is there and where it belongs.
    """
    parts = urlsplit(url)
    named = "@" in parts.netloc and parts.scheme not in _USERS
    if named or ":" in parts.netloc.rpartition("@")[0]:
        where = "a user or password"
    elif any(word in parts.query.lower() for word in _SECRETS):
        where = "a signature or token"
    else:
        return
    raise UsageError(
        f"the {parts.scheme} URL holds {where}, and URLs are printed. Give credentials through the "
        "environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN ...)."
    )
