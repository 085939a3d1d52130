"""What the fused net's classes are called, and which of them each source knows: comments in the written nets."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fusion.composition.classifiers import Classifier
from fusion.composition.net_text import reparse
from fusion.composition.references import settle_classes
from fusion.composition.sources import Source
from fusion.errors import ComposeError, raise_all
from prototxt.text.class_names import ClassNames, class_comments, read_names
from prototxt.text.tree import Document

Labels = str | os.PathLike[str] | Sequence[str]


def named_classes(labels: Labels | None, sources: Sequence[Source], classifiers: Sequence[Classifier]) -> ClassNames:
    """Return the names of the fused net's classes, and the classes of each source that says them.

    labels  a file with a name per line, or the names
    Raises: ComposeError where there are not as many names as classes, or a source's classes are not among them;
            PrototxtError, OSError for the file.
    """
    only = classifiers[0]
    if len(classifiers) > 1 or only.loss.kind.labels != "class":
        if labels:
            what = "several tasks" if len(classifiers) > 1 else f"{only.loss.type}, which takes no classes"
            raise ComposeError(f"names of classes are given, and the fused net has {what}", hint="leave them away")
        return ClassNames()
    names: Sequence[str] = read_names(labels) if isinstance(labels, (str, os.PathLike)) else labels or ()
    num_output = only.num_output
    errors = []
    if names and len(names) != num_output:
        place = os.fspath(labels) if isinstance(labels, (str, os.PathLike)) else None
        what = f"there are {len(names)} names for the fused net's {num_output} classes"
        errors.append(ComposeError(what, place=place, hint="give a name per class, that of class 0 first"))
    numbers = {source.prefix: tuple(source.classes) for source in sources if source.classes}
    for prefix, classes in numbers.items():
        errors += settle_classes(prefix, "", classes, None, num_output)[1]
    raise_all(errors)
    return ClassNames(tuple(names), numbers)


def commented(document: Document, classes: ClassNames) -> Document:
    """Return the net with the comments that tell its classes at its head."""
    comments = class_comments(classes)
    return reparse(f"{comments}{document}", document.name) if comments else document
