"""From a demand to a plan: every section's figures, what they take for granted, and what a reader must be told."""

from broker.topology import SAMPLES_MAX_BYTES
from collafuse.plan import backlog, cost, keeping, nodes, workers
from collafuse.plan.basis import Basis, Section
from collafuse.plan.demand import Demand
from collafuse.plan.figures import Figures, kept
from collafuse.plan.item import Assumption, Item, Plan
from collafuse.plan.nodes import Nodes
from collafuse.plan.quantity import counted, duration, share
from collafuse.plan.sizes import MANIFEST_BYTES
from collafuse.plan.traffic import HOUR_SECONDS, Stream, backlog_messages
from collafuse.plan.workers import Workers

_MESSAGES = Section("messages")
_TRAFFIC = Section("traffic")


def estimate(demand: Demand, figures: Figures | None = None) -> Plan:
    """Plan for a demand. figures: those of the package if left out. Raises PlanRefused."""
    basis = Basis.of(demand, figures or kept())
    broker, denoising = nodes.nodes_of(basis), workers.workers_of(basis)
    store = keeping.store_items(basis)
    stored_bytes = next(item.value for item in store if item.name == "sample store") or 0.0
    return Plan(
        items=(
            *_messages(basis),
            *_traffic(basis),
            *nodes.items(basis, broker),
            *backlog.items(basis),
            *workers.items(basis, denoising),
            *store,
            *keeping.metrics_items(basis, denoising.count),
            *cost.items(basis, broker.count, denoising.count, stored_bytes),
        ),
        assumptions=tuple(_assumptions(basis)),
        warnings=tuple(_warnings(basis, broker, denoising)),
    )


def _messages(basis: Basis) -> list[Item]:
    sizes, demand = basis.sizes, basis.demand
    bodies = (
        (f"samples.v1 of {counted(sizes.images_per_samples, 'images')}", sizes.samples.body_bytes),
        ("receipt.v1", sizes.receipt.body_bytes),
        (f"denoise.v1 for {counted(demand.images_per_request, 'images')}", sizes.request.body_bytes),
        (f"latents.v1, the answer in {counted(sizes.answer_parts, 'parts')}", sizes.answer.body_bytes),
        ("telemetry.v1, at most", sizes.telemetry.body_bytes),
        ("round.v1", sizes.round.body_bytes),
        ("bundle.v1 and chunk.v1 of a head", sizes.rollout.body_bytes),
    )
    return [
        _MESSAGES.item(name, value, "bytes", "encoded", "the body, as the codec writes it")
        for name, value in bodies
    ]


def _traffic(basis: Basis) -> list[Item]:
    traffic, of = basis.traffic, _TRAFFIC.item
    peak = "busiest hour; frames and properties included"
    found = [
        of(f"{stream.name} sent", stream.peak_per_second, "messages/s", "derived", _rhythm(stream))
        for stream in traffic.streams
    ]
    link_bytes = basis.demand.device_link_mbit * 1e6 / 8
    whole = basis.sizes.rollout.down_bytes
    return [
        *found,
        of("from all devices", traffic.up_bytes_per_second, "bytes/s", "derived", peak),
        of("of it samples", traffic.samples.up_bytes_per_second, "bytes/s", "derived", peak),
        of("to all devices", traffic.down_bytes_per_second, "bytes/s", "derived", peak),
        of("of it latents at the cut", traffic.answers.down_bytes_per_second, "bytes/s", "derived", peak),
        of(
            "of it a head",
            traffic.rollout.down_bytes_per_second,
            "bytes/s",
            "derived",
            "over --rollout-hours",
        ),
        of("a head to all devices", whole * basis.demand.devices, "bytes", "derived", "once for each"),
        of("a head on a device's link", whole / link_bytes, "s", "derived", "--device-link-mbit"),
    ]


def _rhythm(stream: Stream) -> str:
    return "mean times --peak-factor" if stream.peak > 1 else "evenly, by the clock"


def _assumptions(basis: Basis) -> list[Assumption]:
    demand, machine = basis.demand, basis.figures.machine
    return [
        Assumption(
            f"measured figures are of {machine}; yours differs, so use ratios and measure again there",
            "measured",
        ),
        Assumption(
            f"a day's busiest hour has {demand.peak_factor:g} times the load of a mean one (--peak-factor)",
            "given",
        ),
        Assumption(
            f"{share(demand.connected_share)} of the devices are connected at once (--connected-share)",
            "given",
        ),
        Assumption(
            f"nodes and workers are run at {share(demand.utilisation)} of their capacity at the peak (--utilisation)",
            "given",
        ),
        Assumption("a member of a replicated queue costs as much as the one that was measured", "derived"),
        Assumption(
            "whoever sends or receives is connected to the node that has the queue; to another one it is once more on the nodes'"
            " links",
            "derived",
        ),
        Assumption("TLS, TCP and IP add some 5 % to bytes on the link, which are not in it", "documented"),
        Assumption(
            f"a node blocks publishers above {share(nodes.WATERMARK)} of its memory (RabbitMQ 3's default)",
            "documented",
        ),
        Assumption(
            "a round is announced to every inbox, also of devices that are away, and expires there", "encoded"
        ),
        Assumption(
            f"a head's manifest and signatures take {MANIFEST_BYTES:,} bytes, and each head is sent once",
            "derived",
        ),
    ]


def _warnings(basis: Basis, broker: Nodes, denoising: Workers) -> list[str]:
    demand, traffic = basis.demand, basis.traffic
    found = []
    if not basis.figures.gpu_is_measured and demand.step_seconds is None:
        found.append(
            "no GPU figure is kept with this package: denoise workers are counted as CPUs; measure with"
            " `python -m benchmarks.engine --device cuda` and give --step-seconds and --step-batch"
        )
    if denoising.each_per_second is None:
        found.append(
            f"how many denoise workers images of {demand.shape} take is not known: give --step-seconds"
        )
    if broker.busiest_queue > demand.utilisation:
        found.append(
            f"one queue is busy for {share(broker.busiest_queue)} of its node's time, and no node more relieves it: part the"
            " devices into several federations, or contribute more images at a time (--batch)"
        )
    waiting = backlog_messages(traffic.samples, demand.hours_away) * traffic.samples.weight.body_bytes
    if waiting > SAMPLES_MAX_BYTES:
        found.append(
            f"{duration(demand.hours_away * HOUR_SECONDS)} without a train worker fill the queue of samples; devices keep the"
            " rest in their outboxes and send it later"
        )
    if traffic.samples.peak_per_second * basis.sizes.images_per_samples * basis.sizes.stored_sample_bytes > (
        basis.figures["ingest_megabytes"].value * 1e6
    ):
        found.append("samples come faster than one train worker was measured to take them: run several ranks")
    return found
