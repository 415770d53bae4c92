"""Addresses in messages: the secret is gone, the rest still tells which camera it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevision.redaction import without_secrets


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("rtsp://admin:secret@cam/1", "rtsp://admin:***@cam/1"),
        ("rtsp://admin:se@cret@cam:554/1?x=1", "rtsp://admin:***@cam:554/1?x=1"),
        ("rtsp://admin:se/cret@cam/1", "rtsp://admin:***@cam/1"),
        ("rtsp://:secret@cam/1", "rtsp://:***@cam/1"),
        ("rtsp://admin@cam/1", "rtsp://admin@cam/1"),
        ("rtsp://cam:554/user@home", "rtsp://cam:554/user@home"),
        ("http://cam/video?user=admin&pwd=secret&size=2", "http://cam/video?user=admin&pwd=***&size=2"),
        ("http://0.0.0.0:8080?TOKEN=secret", "http://0.0.0.0:8080?TOKEN=***"),
        ("gst:rtspsrc location=rtsp://a:secret@cam/1 ! tee", "gst:rtspsrc location=rtsp://a:***@cam/1 ! tee"),
        ("Not Found (404), URL: http://a:secret@b/c, Redirect", "Not Found (404), URL: http://a:***@b/c, Redirect"),
        ("clip.mp4 is cut short: it ends at frame 3", "clip.mp4 is cut short: it ends at frame 3"),
    ],
)
def test_secrets_are_hidden_and_nothing_else(given: str, shown: str) -> None:
    assert without_secrets(given) == shown


@given(st.text(st.characters(blacklist_categories=("Z", "C")), min_size=3).filter(lambda text: "***" not in text))
def test_no_password_shows(password: str) -> None:
    marked = f"\N{SNOWMAN}{password}\N{SNOWMAN}"
    assert "\N{SNOWMAN}" not in without_secrets(f"rtsp://admin:{marked}@cam/1")
