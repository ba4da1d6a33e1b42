"""Each row of the README's table of ratings forms is read as written, from the file to the data set."""

import json
from pathlib import Path

import numpy as np
import pytest

from components.ingestion import ingest
from components.scorer.data import photos as scorer_photos
from components.scorer.run.paths import RunPaths
from components.scorer.settings import SCORES, Ingestion
from tests.builders import rating_tables

pytestmark = pytest.mark.slow

HEADERS = rating_tables.headers()
FORMS = {
    "photo,rater,score": "ratings",
    "photo,rater1,rater2,…,rater25": "wide",
    "photo,1,2,…,10": "counts",
    "photo,c1,c2,…,c5": "counts",
    "photo,0,1,…,10": "counts",
    "photo,mean": "means",
    "AVA.txt": "ava",
    '{"image_id": …, "label": [ten counts]}': "idealo",
    "photo,mean,std,count": "means",
}


def test_every_form_of_the_readmes_table_is_tested_here():
    assert sorted(FORMS) == sorted(HEADERS)


@pytest.mark.parametrize("header", HEADERS)
def test_each_form_of_the_readmes_table_is_ingested_with_every_photos_mean(header, tmp_path):
    truth = np.linspace(2.5, 8.5, 30)
    names = rating_tables.photos(tmp_path / "photos", 30)
    path, means = rating_tables.write(tmp_path, header, names, truth)
    settings = Ingestion(minimum_side=32, validation_share=0.3, test_share=0.3, duplicate_distance=0)
    addresses = [str(tmp_path / "photos"), str(path), str(tmp_path / "dataset"), str(tmp_path / "report.html")]
    ingest.ingest(*addresses, workspace=RunPaths(str(tmp_path / "workspace"), "run"), settings=settings)
    record = json.loads((tmp_path / "dataset" / "ingestion.json").read_text())
    assert (record["schema"], record["left_out"], record["attributes"]) == (FORMS[header], [], [])
    records = [
        record
        for split in scorer_photos.counts(tmp_path / "dataset")
        for record in scorer_photos.records(tmp_path / "dataset", split)
    ]
    ingested_means = {record["photo_id"]: float(np.dot(record["votes"], SCORES)) for record in records}
    assert ingested_means == pytest.approx(dict(zip(names, means, strict=True)), abs=0.01)
    assert Path(tmp_path / "report.html").exists()
