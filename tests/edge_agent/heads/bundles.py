"""Signed bundles for tests: good ones, made by the real export, and bad ones that are signed all the same."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from broker.contract.heads import MIN_CHUNK_BYTES, BundleV1, ChunkV1
from export.bundle import Bundle, member_digests, pack_bundle, read_bundle
from export.keys import BUNDLE_DOMAIN, PrivateKey, Signatures


def signed(bundle: Bundle, key: PrivateKey | None, **facts: Any) -> bytes:
    """The file of a bundle whose manifest says `facts`, vouches for its members, and is signed by `key` (None: by nobody)."""
    digests = member_digests(bundle.onnx, bundle.schedule, bundle.golden)
    manifest = type(bundle.manifest)(**(dict(bundle.manifest) | facts | {"digests": digests}))
    signatures = Signatures()
    if key is not None:
        signatures = signatures.plus(key.sign(BUNDLE_DOMAIN, manifest.to_bytes()))
    return pack_bundle(dataclasses.replace(bundle, manifest=manifest, signatures=signatures))


def with_wrong_answers(bundle: Bundle) -> Bundle:
    """The same head, whose maker says that it answers otherwise."""
    return dataclasses.replace(bundle, golden=dataclasses.replace(bundle.golden, eps=-bundle.golden.eps))


def with_nan_weights(bundle: Bundle) -> Bundle:
    """A head whose weights are not numbers."""
    model = onnx.load_from_string(bundle.onnx)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:  # of a convolution; smaller ones may be sizes that shapes depend on
            values = np.full_like(numpy_helper.to_array(tensor), np.nan)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return dataclasses.replace(bundle, onnx=model.SerializeToString(deterministic=True))


def with_runs_that_fail(bundle: Bundle) -> Bundle:
    """A head that loads, and ends every run with an error: it looks up the step's place in a table of one."""
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "t"], ["found"]),
            helper.make_node("Reshape", ["found", "sides"], ["column"]),
            helper.make_node("Add", ["x", "column"], ["eps"]),
        ],
        "fails",
        onnx.load_from_string(bundle.onnx).graph.input,
        onnx.load_from_string(bundle.onnx).graph.output,
        [
            numpy_helper.from_array(np.zeros(1, np.float32), "table"),
            numpy_helper.from_array(np.array([-1, 1, 1, 1], np.int64), "sides"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return dataclasses.replace(bundle, onnx=model.SerializeToString(deterministic=True))


def with_ballast(bundle: Bundle, size_bytes: int) -> Bundle:
    """The same head in a file so much larger that it takes many pieces."""
    model = onnx.load_from_string(bundle.onnx)
    model.doc_string = "x" * size_bytes
    return dataclasses.replace(bundle, onnx=model.SerializeToString(deterministic=True))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def messages(path: Path, chunk_bytes: int = MIN_CHUNK_BYTES) -> tuple[BundleV1, list[ChunkV1]]:
    """A bundle as it travels."""
    content, bundle = path.read_bytes(), read_bundle(path)
    digest = hashlib.sha256(content).hexdigest()
    announcement = BundleV1(
        bundle=digest,
        size_bytes=len(content),
        chunk_bytes=chunk_bytes,
        manifest=bundle.manifest_bytes,
        signatures=bundle.signatures.to_bytes(),
        key_list=bundle.key_list.to_bytes(),
    )
    chunks = [
        ChunkV1(bundle=digest, index=index, content=content[first : first + chunk_bytes])
        for index, first in enumerate(range(0, len(content), chunk_bytes))
    ]
    return announcement, chunks
