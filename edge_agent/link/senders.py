"""Who may put what into this device's inbox; the broker has validated who somebody is, and 3.10 cannot keep strangers out.

RabbitMQ 3.10 does not hold the keys in a CC header against the sender's rights, so that the owner of another client's devices can
have a letter put in here. It bears the owner's user, and is dropped.
"""

from broker.contract.heads import BundleV1, ChunkV1
from broker.names import owned_client, split_user

_FROM_OWNERS = frozenset({BundleV1.type_name, ChunkV1.type_name})


def objection(user_id: str | None, type_name: str, own_user: str) -> str | None:
    """Why a letter is not taken, in words; None when it may be.

    Args:
        user_id: of its sender, as the broker validated it; None when it did not.
        type_name: of the message, `name.vN`.
        own_user: of this device, `<client>_<device>`.
    """
    if user_id is None:
        return "the letter carries no user_id, so the broker did not validate its sender"
    client = owned_client(user_id)
    if client is None:
        return None
    if client != split_user(own_user)[0]:
        return f"{user_id} is the owner of other devices"
    return None if type_name in _FROM_OWNERS else f"an owner has no business sending a {type_name}"
