"""Signed bundles for tests: good ones, made by the real export, and bad ones that are signed all the same."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from broker.contract.heads import MIN_CHUNK_BYTES, BundleV1, ChunkV1
from export.bundle.bundle import Bundle, member_digests, pack_bundle, read_bundle
from export.bundle.keys import BUNDLE_DOMAIN, PrivateKey, Signatures

Trouble = Literal["nan", "error", "hang"]


def signed(bundle: Bundle, key: PrivateKey | None, **facts: Any) -> bytes:
    """The file of a bundle whose manifest says `facts`, vouches for its members, and is signed by `key` (None: by nobody)."""
    digests = member_digests(bundle.onnx, bundle.schedule, bundle.golden)
    manifest = type(bundle.manifest)(**(dict(bundle.manifest) | facts | {"digests": digests}))
    signatures = Signatures()
    if key is not None:
        signatures = signatures.plus(key.sign(BUNDLE_DOMAIN, manifest.to_bytes()))
    return pack_bundle(dataclasses.replace(bundle, manifest=manifest, signatures=signatures))


def signed_again(path: Path, key: PrivateKey) -> bytes:
    """The same head under one signature more."""
    bundle = read_bundle(path)
    signatures = bundle.signatures.plus(key.sign(BUNDLE_DOMAIN, bundle.manifest_bytes))
    return pack_bundle(dataclasses.replace(bundle, signatures=signatures))


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


def with_trouble(bundle: Bundle, trouble: Trouble, images: int = 5) -> Bundle:
    """The same head, whose probe is as it should be; of so many images at once it makes nothing good.

    trouble: "nan" answers with what is no number, "error" ends the run with one, "hang" never ends it.
    """
    model = onnx.load_from_string(bundle.onnx)
    assert len(bundle.golden.x) != images
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == "eps":
                node.output[place] = "eps_of_the_head"
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["x"], ["images"], start=0, end=1),
            helper.make_node("Equal", ["images", "trouble_count"], ["troubled"]),
            helper.make_node("Where", ["troubled", "trouble_many", "trouble_zero"], ["place"]),
            *_trouble_nodes(trouble),
            helper.make_node("Mul", ["eps_of_the_head", "factor"], ["eps"]),
        ]
    )
    numbers: dict[str, np.ndarray] = {
        "trouble_count": np.array([images], np.int64),
        "trouble_many": np.array([2**60], np.int64),
        "trouble_zero": np.array([0], np.int64),
        "trouble_one": np.array([1], np.float32),
        "trouble_nan": np.array([np.nan], np.float32),
        "trouble_true": np.array(True),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in numbers.items())
    onnx.checker.check_model(model)
    return dataclasses.replace(bundle, onnx=model.SerializeToString(deterministic=True))


def _trouble_nodes(trouble: Trouble) -> list[onnx.NodeProto]:
    """From `place`, 0 or very large, to `factor`, which is one where all is well."""
    if trouble == "nan":
        return [helper.make_node("Where", ["troubled", "trouble_nan", "trouble_one"], ["factor"])]
    if trouble == "error":
        return [helper.make_node("Gather", ["trouble_one", "place"], ["factor"])]
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
            helper.make_node("Abs", ["held"], ["kept"]),
        ],
        "for_ever",
        [
            value("turn", onnx.TensorProto.INT64, []),
            value("go_on", onnx.TensorProto.BOOL, []),
            value("held", onnx.TensorProto.FLOAT, [1]),
        ],
        [value("goes_on", onnx.TensorProto.BOOL, []), value("kept", onnx.TensorProto.FLOAT, [1])],
    )
    return [
        helper.make_node("Squeeze", ["place"], ["turns"]),
        helper.make_node("Loop", ["turns", "trouble_true", "trouble_one"], ["factor"], body=body),
    ]


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
