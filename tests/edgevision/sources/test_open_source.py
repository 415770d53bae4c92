"""Finding a source by its URI."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevision.errors import SourceError, UsageError
from edgevision.registry import kinds
from edgevision.sources import camera, name_of, network, open_source, open_sources, picture, video
from edgevision.sources import folder as folder_kind
from tests.camera_kit import write_video

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize("uri", ["words", "clip.xyz", "ftp://host/a.mp4", "", "webrtc://x"])
def test_an_unknown_uri_is_refused_with_a_list_of_what_is_understood(uri: str) -> None:
    with pytest.raises(UsageError, match="is not understood") as refused:
        open_source(uri)
    for form in ("photo.jpg", "photos/", "clip.mp4", "rtsp://", "v4l2:///dev/video0", "synthetic://aerial"):
        assert form in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("a.JPG", picture),
        ("dir/*.png", folder_kind),
        ("dir/**/*.png", folder_kind),
        ("a.mp4", video),
        ("http://host/a.mp4?token=1", video),
        ("https://host/live", network),
        ("rtsp://me:pw@host/a.mp4", network),
        ("udp://@:5000", network),
        ("0", camera),
        ("v4l2:///dev/video1?size=640x480", camera),
    ],
)
def test_each_uri_belongs_to_exactly_one_kind(uri: str, kind: object) -> None:
    import edgevision.sources

    assert [module for module in kinds(edgevision.sources) if module.claims(uri)] == [kind]


def test_what_gstreamer_lacks_is_named_with_its_package() -> None:
    if Path("/etc/nv_tegra_release").exists():
        pytest.skip("this machine is a Jetson: it lacks nothing")
    with pytest.raises(SourceError, match=r"needs GStreamer's Python|apt-get install nvidia-l4t-gstreamer"):
        open_source("csi://0")


def test_a_missing_camera_is_named_with_what_to_do() -> None:
    if Path("/dev/video9").exists():
        pytest.skip("this machine has ten cameras")
    for uri in ("9", "v4l2:///dev/video9", "/dev/video9", "v4l2:///dev/video9?exposure_us=5000&gain=4"):
        with pytest.raises(SourceError, match=r"/dev/video9 does not exist; this machine has .*v4l2-ctl"):
            open_source(uri)


@pytest.mark.parametrize("uri", ["v4l2:///etc/passwd", "v4l2:///dev/video0?speed=3", "v4l2://"])
def test_a_camera_uri_is_checked(uri: str) -> None:
    with pytest.raises(UsageError, match="not of the form"):
        open_source(uri)


def test_a_camera_s_exposure_needs_the_reader_that_can_set_it() -> None:
    with pytest.raises(UsageError, match="exposure_us and gain need the reader gstreamer"):
        open_source("v4l2:///dev/video0?exposure_us=5000", reader="av")


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("street.mp4", "street"),
        ("/data/my clip (1).mp4", "my-clip-1"),
        ("photos/", "photos"),
        ("photos/*.jpg", "photos"),
        ("*.jpg", "source"),
        ("0", "camera0"),
        ("v4l2:///dev/video2", "dev-video2"),
        ("rtsp://me:secret@10.0.0.7:554/cam", "10-0-0-7-554-cam"),
        ("http://host:81/cam?x=1", "host-81"),
        ("udp://@:5000", "5000"),
        ("synthetic://aerial?seed=4", "aerial"),
    ],
)
def test_a_source_is_named_after_its_uri(uri: str, name: str) -> None:
    assert name_of(uri) == name


def test_sources_get_names_of_their_own(tmp_path: Path) -> None:
    clip = str(write_video(tmp_path / "a.mp4", 2))
    sources = open_sources([clip, clip, clip])
    assert [source.status.source_id for source in sources] == ["a", "a-2", "a-3"]
    for source in sources:
        assert {frame.source_id for frame in source} == {source.status.source_id}


def test_when_one_source_cannot_be_opened_the_others_are_closed(tmp_path: Path) -> None:
    clip = str(write_video(tmp_path / "a.mp4", 2))
    with pytest.raises(SourceError, match="absent"):
        open_sources(["synthetic://aerial?size=64x64", clip, str(tmp_path / "absent.mp4")])


def test_a_password_is_never_shown() -> None:
    with pytest.raises(SourceError) as failed:
        open_source("rtsp://me:secret@127.0.0.1:1/cam", timeout_s=2)
    assert "secret" not in str(failed.value)
    assert "rtsp://me:***@127.0.0.1:1/cam" in str(failed.value)


def test_a_timeout_is_positive() -> None:
    with pytest.raises(UsageError, match="above zero"):
        open_source("0", timeout_s=0)
