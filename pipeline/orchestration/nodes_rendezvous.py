"""torchrun's c10d rendezvous, with the first ranks on the lead.

c10d numbers machines in the order of their addresses. The first process writes the results and the ledger,
and the lead reads them as soon as it ends: on another machine a network file system might show them late.
"""

from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

BACKEND = "c10d-lead-first"


class LeadFirst(RendezvousHandler):
    """Renumbers what another handler has brought together."""

    def __init__(self, handler: RendezvousHandler, address: str, *, is_lead: bool) -> None:
        self._handler, self._address, self._is_lead = handler, address, is_lead

    def next_rendezvous(self) -> RendezvousInfo:
        """Meet, and count from the lead on."""
        found = self._handler.next_rendezvous()
        store = PrefixStore("lead-first", found.store)
        if self._is_lead:
            store.set("rank", str(found.rank))
        rank = (found.rank - int(store.get("rank"))) % found.world_size
        bootstrap = RendezvousStoreInfo.build(rank, store, self._address)
        return RendezvousInfo(found.store, rank, found.world_size, bootstrap)

    def get_backend(self) -> str:
        """The name it is registered under."""
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        """The store of the processes is their own, so that they can meet again."""
        return self._handler.use_agent_store

    def is_closed(self) -> bool:
        """Whether nobody can join any more."""
        return self._handler.is_closed()

    def set_closed(self) -> None:
        """Let nobody join any more."""
        self._handler.set_closed()  # type: ignore[no-untyped-call]

    def num_nodes_waiting(self) -> int:
        """How many machines came back and wait to be let in."""
        return self._handler.num_nodes_waiting()

    def get_run_id(self) -> str:
        """Id of the meeting."""
        return self._handler.get_run_id()

    def shutdown(self) -> bool:
        """Close it."""
        return self._handler.shutdown()


def register() -> str:
    """Make it known to torchrun.

    Returns:
        Its name.
    """
    rendezvous_handler_registry.register(BACKEND, _create)
    return BACKEND


def _create(parameters: RendezvousParameters) -> RendezvousHandler:
    backend, store = create_backend(parameters)
    handler = create_handler(store, backend, parameters)
    assert parameters.local_addr is not None
    return LeadFirst(handler, parameters.local_addr, is_lead=bool(parameters.get_as_bool("is_host")))
