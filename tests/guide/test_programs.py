"""Where a program keeps METHODS, or the copy of it that a launcher made."""

from __future__ import annotations

from functools import partial, wraps

import pytest

from solo_gps.guide.programs import registries


class Simclr:
    pass


METHODS = {"simclr": Simclr, "other": int}


def with_default(cfg, methods=dict(METHODS)):  # noqa: B006 - as a program may be written
    return methods


def with_keyword(cfg, *, methods=dict(METHODS)):  # noqa: B006
    return methods


def with_closure():
    methods = dict(METHODS)

    def main(cfg):
        return methods

    return main


def decorated():
    main = with_closure()

    @wraps(main)
    def outer(cfg):
        return main(cfg)

    return outer


class Program:
    def main(self, cfg, methods=dict(METHODS)):  # noqa: B006
        return methods


@pytest.mark.parametrize(
    "program",
    [with_default, with_keyword, with_closure(), decorated(), partial(with_default), Program().main],
    ids=["default", "keyword", "closure", "decorator", "partial", "bound method"],
)
def test_the_registry_that_a_program_reads_is_found(program):
    hosts = dict(METHODS)
    assert any(found is program(None) for found in registries(program, hosts, "simclr"))


def test_one_given_by_partial_is_found():
    copy = dict(METHODS)
    assert any(found is copy for found in registries(partial(lambda cfg, methods: None, methods=copy), dict(METHODS), "simclr"))


def test_without_a_program_there_is_the_hosts_alone():
    hosts = dict(METHODS)
    assert registries(None, hosts, "simclr") == [hosts]
