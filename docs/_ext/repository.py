"""Links from pages to the repository, which work on GitHub, work in the site too.

A file such as ``../ecgan/config.py`` is copied into the site, by MyST itself. A folder cannot be:
its link becomes its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform


class FolderNames(SphinxPostTransform):
    """Replaces links to folders of the repository by their text."""

    default_priority = 8  # before MyST looks for pages of those names

    def run(self, **kwargs: Any) -> None:
        """Goes through the links of one page."""
        for link in list(self.document.findall(pending_xref)):
            target = str(link.get("reftarget", ""))
            page = Path(str(self.env.doc2path(self.env.docname)))
            if target.startswith("../") and (page.parent / target).is_dir():
                link.replace_self(link.children)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the transform."""
    app.add_post_transform(FolderNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
