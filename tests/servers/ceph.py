"""The one-host Ceph of `infra/ceph`, under the tests' own name."""

from infra.ceph.one_host import DAEMONS, CephError, CephServer, missing_binaries

__all__ = ["DAEMONS", "CephError", "CephServer", "missing_binaries"]
