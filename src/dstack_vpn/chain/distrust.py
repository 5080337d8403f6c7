"""Distrust: what is made of providers that say otherwise than enough others do.

What one of them says against a member is heard at once. Who is refuted by enough others begins anew
with them; if it had said something against a member, that is undone, and for some time its word
alone removes nobody. All of that raises alarms that name it.
"""

from collections.abc import Callable, Mapping, Sequence

from dstack_vpn.chain import tally
from dstack_vpn.chain.agreed import Agreed
from dstack_vpn.chain.alarms import Alarms
from dstack_vpn.chain.journal import Journal
from dstack_vpn.chain.panel import Panel
from dstack_vpn.chain.witness import Witness
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.membership import Suspects
from dstack_vpn.mesh.snapshot import AlarmCode

QUARANTINE = 3600.0
LONGEST_QUARANTINE = 86_400.0
"""Seconds for which a provider's word alone removes nobody, after enough others refuted a removal
that it told of: doubled each time."""


WITHDRAWN_WITHIN = 3600.0
MOST_WITHDRAWN = 3
"""So often within so many seconds may a provider leave a branch on which it told of a removal that
never was agreed on. Honest ones do so in a reorganisation that carries a removal: we chose."""

_WITHDRAWN = f"it took back {MOST_WITHDRAWN} times in an hour, and that nobody confirmed"


class Distrust:
    """The review of all witnesses."""

    def __init__(self, panel: Panel, *, alarms: Alarms, now: Callable[[], float]) -> None:
        """Prepare; `now` gives monotonic seconds."""
        self._panel = panel
        self._alarms = alarms
        self._now = now
        self._partings: Mapping[str, tally.Parting] = {}
        self._looks: dict[str, int] = {}
        """By provider that is on a branch of its own: looks at it until that was noticed."""

    def review(self, witnesses: Sequence[Witness], agreed: Agreed, before: Suspects) -> Suspects:
        """Look at all witnesses once: bring back who is refuted, and hear the others.

        Args:
            witnesses: all of them.
            agreed: the agreed chain.
            before: what the last review returned; returned again where nothing changed.

        Returns:
            What single providers say against members.
        """
        journal = agreed.journal
        refuted: Mapping[str, str] = {}
        now = self._now()
        if all(w.journal is None or w.journal.head.same(journal.head) for w in witnesses):
            self._partings = {}
        else:
            chains = {w.name: w.journal for w in witnesses if w.journal is not None}
            found = tally.partings(chains, journal, self._partings)
            known = self._partings
            looks = {w.name: w.looks for w in witnesses}
            self._looks = {
                name: self._looks[name] if name in known and name in self._looks else looks[name]
                for name in found
            }
            self._partings = found
            refuted = tally.refuted(self._partings, journal)
        for witness in witnesses:
            if witness.name in refuted:
                self._refute(witness, refuted[witness.name], agreed, witnesses)
            elif witness.journal is not None:
                self._hear(witness, witness.journal, agreed)
            if len(witness.withdrawn) >= MOST_WITHDRAWN:
                self._quarantine(witness, witnesses, _WITHDRAWN)
        # Who begins anew has not taken back what it said; it is asked again first.
        heard = (w.accusations for w in witnesses if not w.quarantined(now))
        suspects = tally.merged(heard, journal.nodes)
        self._tell(witnesses, agreed, suspects)
        for witness in witnesses:
            if witness.journal is None:
                continue
            common = journal.common(witness.journal)
            if common is not None:
                # What it said since then counts until enough others have said otherwise.
                witness.journal.keep_from = common.block.number
            # Not before the others are past it: what it said against members must be heard.
            if witness.lost and witness.journal.head.block.number < journal.head.block.number:
                witness.rebase(journal)
        return before if suspects == before else suspects

    def _hear(self, witness: Witness, chain: Journal, agreed: Agreed) -> None:
        """Take what a provider says now, and note what it no longer says without having been right.

        To be refuted takes some blocks on one branch. Whoever leaves its branch before, and tells
        the same on another one, would never be: so it is also counted how often that happens.
        """
        now, head = self._now(), agreed.head.block.number
        while witness.withdrawn and witness.withdrawn[0] < now - WITHDRAWN_WITHIN:
            witness.withdrawn.popleft()
        if not witness.asked or agreed.journal.common(chain) is None:
            # Not asked since it began anew: what it said stands, but no longer than on a branch.
            said = [s.block for s in witness.accusations.values()]
            if said and head >= max(*said, witness.rebased_at) + tally.DISPUTE_DEPTH:
                witness.accusations = {}
                witness.withdrawn.append(now)
            return
        accusations = tally.accused(witness.name, chain, agreed.journal)
        for token_id, suspect in witness.accusations.items():
            if chain.find(suspect.hash) is not None:
                continue
            ours = agreed.journal.nodes.get(token_id)
            if agreed.journal.find(suspect.hash) is None and ours is not None and ours.active:
                witness.withdrawn.append(now)
                break
        witness.accusations = accusations

    def _refute(
        self, witness: Witness, how: str, agreed: Agreed, witnesses: Sequence[Witness]
    ) -> None:
        name = witness.name
        assert witness.journal is not None
        if tally.accused(name, witness.journal, agreed.journal):
            parting = self._partings[name]
            if parting.theirs == parting.ours or witness.looks > self._looks[name]:
                self._quarantine(witness, witnesses, f"enough others refute: {how}")
            else:
                # It was silent since then, and might have come along.
                witness.withdrawn.append(self._now())
        text = f"{name} contradicts enough others: {how}"
        self._alarms.sound(AlarmCode.DISAGREEMENT, text, provider=name)
        witness.provider.blame(BadAnswerError("refuted", text))
        witness.rebase(agreed.journal)
        witness.accusations = {}
        witness.error = text

    def _quarantine(self, witness: Witness, witnesses: Sequence[Witness], why: str) -> None:
        """Let the word of a provider, and of all that are one vote with it, remove nobody."""
        if witness.quarantined(self._now()):
            return
        length = min(LONGEST_QUARANTINE, QUARANTINE * 2**witness.quarantines)
        voter_of = self._panel.quorum.voter_of
        for other in witnesses:
            # With ten URLs of one host it would otherwise have ten tries.
            if voter_of[other.name] == voter_of[witness.name]:
                other.quarantine(length)
        text = (
            f"{witness.name} told of removals that {why}; for {length / 3600:g} h its word alone"
            " removes nobody"
        )
        self._alarms.sound(AlarmCode.QUARANTINED, text, provider=witness.name)

    def _tell(self, witnesses: Sequence[Witness], agreed: Agreed, suspects: Suspects) -> None:
        """Raise and clear the alarms about single providers."""
        alarms, journal, now = self._alarms, agreed.journal, self._now()
        accusers: dict[str, list[str]] = {}
        for token_id, suspect in suspects.items():
            who = f"token {token_id} ({journal.nodes[token_id].node_id[:63]!r})"
            for name in suspect.providers:
                accusers.setdefault(name, []).append(who)
        for name, tokens in accusers.items():
            more = f" and {len(tokens) - 5} more" if len(tokens) > 5 else ""
            text = f"out on the word of {name} alone: {', '.join(tokens[:5])}{more}"
            alarms.sound(AlarmCode.SUSPENDED, text, provider=name)
        alarms.keep(AlarmCode.SUSPENDED, accusers)
        alarms.keep(AlarmCode.QUARANTINED, [w.name for w in witnesses if w.quarantined(now)])
        for provider, text in self._panel.refused.items():
            alarms.sound(AlarmCode.PROVIDER_REFUSED, text, provider=provider.name)
        alarms.keep(AlarmCode.PROVIDER_REFUSED, [p.name for p in self._panel.refused])
        # Over when it has come to the agreed head by itself.
        apart = [
            w.name
            for w in witnesses
            if w.error is not None or w.journal is None or not w.journal.head.same(journal.head)
        ]
        alarms.keep(AlarmCode.DISAGREEMENT, ["", *apart])
