"""The flowers of OFT's experiment on angles; `angles.experiment` reads any folder of images."""

from __future__ import annotations

from selma.records.data_sets import DataSet

DATA_SETS = (
    DataSet(
        "flowers-102",
        "8,189 photographs of 102 kinds of flowers, for the experiment on angles (OFT)",
        source="https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
        licence="none is stated; the photographs are of others",
        after="unpack 102flowers.tgz",
        layout="jpg/image_NNNNN.jpg",
        setting="selma oft angles jpg",
    ),
)
