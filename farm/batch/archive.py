"""`--zip`: the files of a batch in one archive."""

from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

from farm.batch.summary import KEY, Row
from farm.store import Store
from svd_engine.video import replacing

PAGE = "index.html"


def write_archive(out: Store, rows: list[Row], path: Path) -> int:
    """Write the files of finished clips, the summary and the page; returns the number of clips.

    The archive appears whole, or stays as it was. Raises OSError if it cannot be written.
    """
    done = [row for row in rows if row.status == "done"]
    keys = [PAGE, KEY, *(key for row in done for key in (row.video, row.thumbnail, row.source))]
    # Videos and JPEGs are compressed already.
    with replacing(path) as scratch, ZipFile(scratch, "w", ZIP_STORED) as archive:
        for key in dict.fromkeys(keys):
            if (stored := out.get(key)) is not None:
                archive.writestr(f"{path.stem}/{key}", stored.data)
    return len(done)
