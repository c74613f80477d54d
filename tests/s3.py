"""S3 as moto emulates it: the settings by which a process finds it."""

from __future__ import annotations

__all__ = ["s3_settings"]


def s3_settings(address: str) -> dict[str, str]:
    """Environment of a process that uses the S3 at an address."""
    return {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": address,
    }
