"""Rotation by the clock: whoever trusts what was published an overlap ago accepts every certificate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from certs import rotation
from certs.rotation import CertificateState, Times

PAUSES = st.one_of(st.integers(5, 50), st.integers(60, 900))
"""Minutes between looks."""

NAMES = ["variant-adapter.system.svc"]
START = datetime(2026, 1, 1, tzinfo=UTC)
TIMES = Times(authority=timedelta(days=30), leaf=timedelta(days=3), overlap=timedelta(hours=1))


def step(
    kept: CertificateState | None, now: datetime, published: bytes | None, *, force: bool = False
) -> CertificateState:
    return rotation.advance(
        kept, names=NAMES, now=now, times=TIMES, published=published, force=force
    )


def accepts(bundle: bytes, kept: CertificateState, now: datetime) -> bool:
    """Whether a client with that bundle accepts the serving certificate now."""
    serving = x509.load_pem_x509_certificate(kept.serving.cert_pem)
    if not serving.not_valid_before_utc <= now <= serving.not_valid_after_utc:
        return False
    for authority in x509.load_pem_x509_certificates(bundle):
        if authority.subject == serving.issuer and authority.not_valid_after_utc >= now:
            try:
                serving.verify_directly_issued_by(authority)
            except Exception:  # noqa: BLE001, S112 - another authority of the same name
                continue
            return True
    return False


@settings(max_examples=10, deadline=None, phases=[Phase.generate])
@given(
    pauses=st.lists(PAUSES, min_size=140, max_size=140),
    forced=st.sets(st.integers(0, 139), max_size=4),
)
def test_nobody_is_ever_turned_away(pauses: list[int], forced: set[int]) -> None:
    """Weeks at odd steps: clients and replicas that are an overlap behind still understand each other."""
    now, kept = START, step(None, START, None)
    history = [(now, kept)]

    def then(at: datetime) -> CertificateState:
        return next(item for since, item in reversed(history) if since <= at)

    for index, pause in enumerate(pauses):
        now += timedelta(minutes=pause)
        kept = step(kept, now, history[-1][1].trusted, force=index in forced)
        history.append((now, kept))
        late = then(max(now - TIMES.overlap, START))
        assert accepts(late.trusted, kept, now), "a client that trusts an older bundle"
        assert accepts(kept.trusted, late, now), "a replica that serves an older certificate"
        again = rotation.parse(kept.data())
        assert again is not None
        assert (again.trusted, again.serving) == (kept.trusted, kept.serving)
    if now - START > timedelta(days=22):
        assert kept.signing.cert_pem != history[0][1].signing.cert_pem


def test_a_new_authority_signs_only_once_it_is_trusted() -> None:
    """However long it takes until the bundle has it, the old one signs until then."""
    kept = step(None, START, None)
    old = kept.trusted
    now = START + timedelta(days=21)
    kept = step(kept, now, old)
    assert kept.following is not None
    for _ in range(10):
        now += timedelta(hours=5)
        kept = step(kept, now, old)
        assert kept.former == b""
    kept = step(kept, now, kept.trusted)
    assert kept.former != b""


def test_an_expired_authority_is_replaced_at_once() -> None:
    """Nobody trusts it any more, so nothing is won by waiting."""
    kept = step(None, START, None)
    later = START + timedelta(days=31)
    new = step(kept, later, kept.trusted)
    assert new.signing.cert_pem != kept.signing.cert_pem
    assert accepts(new.trusted, new, later)


def test_other_names_make_another_certificate() -> None:
    """A renamed Service gets a certificate of its name, by the same authority."""
    kept = step(None, START, None)
    new = rotation.advance(
        kept, names=["other.system.svc"], now=START, times=TIMES, published=kept.trusted
    )
    assert new.serving.cert_pem != kept.serving.cert_pem
    assert new.signing.cert_pem == kept.signing.cert_pem


def test_what_cannot_be_read_is_made_anew() -> None:
    """A Secret with half of it, or with a key of something else, counts as none."""
    data = step(None, START, None).data()
    other = step(None, START, None).data()
    assert rotation.parse(data) is not None
    assert rotation.parse({}) is None
    assert rotation.parse({**data, "tls.key": b"x"}) is None
    assert rotation.parse({**data, "signing.key": other["signing.key"]}) is None
