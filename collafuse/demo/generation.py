"""Making the images: the clients' through the queue and their heads, the isolated rivals' on the device alone."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from collafuse.demo.design import Design
from collafuse.demo.errors import DemoFailed
from collafuse.demo.federation import Places
from collafuse.demo.processes import POLL_SECONDS, Child, Processes
from collafuse.demo.training import ISOLATED
from diffusion.noise import initial_noise
from diffusion.plan import plan
from edge_agent.generation import jobs
from edge_agent.heads.head import Head
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from evaluation.data.images import ClientData, LabelledImages, concatenate, labels_like
from evaluation.reporting.narrator import Narrator

ASKING_AT_ONCE = 2
ISOLATED_BATCH = 64


@dataclass(frozen=True, eq=False)
class Generated:
    """One client's images of one generation seed.

    finished: what the device ended with. at_cut: (N, C, H, W) float32, the same samples as the server sent them.
    isolated: the same labels from the client's isolated model.
    """

    finished: LabelledImages
    at_cut: NDArray[np.float32]
    isolated: LabelledImages


@dataclass(frozen=True)
class _Order:
    """A job of one client: `count` images of one label and seed."""

    client: str
    label: int
    count: int
    seed: int


def generate(
    processes: Processes, design: Design, places: Places, clients: tuple[ClientData, ...], narrator: Narrator
) -> dict[str, list[Generated]]:
    """Client → one set of images per generation seed, in the proportions of the labels that the client holds."""
    orders = list(_orders(design, clients))
    part = narrator.part("server denoises to the cut, devices finish", sum(order.count for order in orders))
    job_ids = _ask(processes, places, orders)
    while not _all_ended(places, orders, job_ids):
        processes.check()
        part.update(_images_done(places, clients), "images")
        time.sleep(POLL_SECONDS)
    part.end(f"{sum(order.count for order in orders)} images")
    part = narrator.part("isolated rivals make theirs", len(clients) * design.image_sets)
    sets: dict[str, list[Generated]] = {}
    for client in clients:
        rival = Head.load(places.bundle(client.name, ISOLATED), "cpu", threads=1)
        for number in range(design.image_sets):
            mine = [o for o in orders if o.client == client.name and o.seed == _seed(design, number)]
            finished, at_cut = _collect(places, mine, job_ids)
            isolated = _isolated(rival, finished.labels, design, _seed(design, number))
            sets.setdefault(client.name, []).append(Generated(finished, at_cut, isolated))
            part.update(sum(map(len, sets.values())), client.name)
    part.end()
    return sets


def _orders(design: Design, clients: tuple[ClientData, ...]) -> Iterator[_Order]:
    for number in range(design.image_sets):
        for client in clients:
            wanted = labels_like(client.everything.labels, design.images_per_set)
            for label, count in zip(*np.unique(wanted, return_counts=True), strict=True):
                yield _Order(client.name, int(label), int(count), _seed(design, number))


def _seed(design: Design, number: int) -> int:
    return 1000 * design.seed + number


def _ask(processes: Processes, places: Places, orders: list[_Order]) -> dict[_Order, str]:
    """Ask each client's agent as an app on the device would; returns the ids of the jobs."""
    asked: dict[_Order, Child] = {}
    for order in orders:
        arguments = ["edge", "generate", "--config", str(places.credentials(order.client))]
        arguments += ["--state", str(places.state(order.client)), "--count", str(order.count)]
        arguments += ["--label", str(order.label), "--seed", str(order.seed), "--no-wait", "--json"]
        name = f"generate-{order.client}-{order.label}-{order.seed}"
        asked[order] = processes.start(name, arguments)
        if len(asked) % ASKING_AT_ONCE == 0:
            processes.finish(list(asked.values())[-ASKING_AT_ONCE:])
    processes.finish(list(asked.values()))
    return {order: str(json.loads(child.last_line())["job_id"]) for order, child in asked.items()}


def _all_ended(places: Places, orders: list[_Order], job_ids: dict[_Order, str]) -> bool:
    """Whether every job is completed. Raises DemoFailed for one that ended otherwise."""
    for client in {order.client for order in orders}:
        with Spool(places.state(client) / "spool.sqlite3") as spool:
            for order in (order for order in orders if order.client == client):
                job = jobs.find(spool, job_ids[order])
                if job is None or not job.ended:
                    return False
                if job.state != "completed":
                    raise DemoFailed(
                        f"the job {job.job_id} of {client} {job.state} ({job.reason}): {job.detail}"
                    )
    return True


def _images_done(places: Places, clients: tuple[ClientData, ...]) -> int:
    done = 0
    for client in clients:
        with Spool(places.state(client.name) / "spool.sqlite3") as spool:
            done += int(spool.rows("SELECT coalesce(sum(done), 0) FROM jobs")[0][0])
    return done


def _collect(
    places: Places, orders: list[_Order], job_ids: dict[_Order, str]
) -> tuple[LabelledImages, NDArray[np.float32]]:
    """The pictures that the agent left in its results folder, and the latents they were finished from."""
    finished, at_cut = [], []
    for order in orders:
        folder = StateDirectory(places.state(order.client)).results(job_ids[order])
        images = np.load(folder / "images.npy", allow_pickle=False)
        finished.append(LabelledImages(images, np.full(len(images), order.label, np.int32)))
        at_cut.append(np.load(folder / "latents.npy", allow_pickle=False))
    return concatenate(finished), np.concatenate(at_cut)


def _isolated(rival: Head, labels: NDArray[np.int32], design: Design, seed: int) -> LabelledImages:
    """The whole chain on the device, with as many network evaluations as the two sides have together."""
    schedule = rival.schedule
    steps = plan(schedule, schedule.T, 0, design.evaluations)
    parts = []
    for first in range(0, len(labels), ISOLATED_BATCH):
        wanted = labels[first : first + ISOLATED_BATCH]
        seeds = np.full(len(wanted), seed, np.uint64)
        samples = np.arange(first, first + len(wanted), dtype=np.int64)
        noise = initial_noise(seeds, samples, schedule.T, rival.manifest.image_shape)
        parts.append(
            rival.finish(
                noise,
                steps,
                sampler=design.sampler,
                clip=design.clip,
                seeds=seeds,
                samples=samples,
                labels=wanted,
            )
        )
    return LabelledImages(np.concatenate(parts), labels)
