"""Is a run whole? Answered from the input Parquet and the bytes in the store alone.

Knows the layout of the result as the design states it, and no code of render_farm: what that
code gets wrong, this must see. A test holds it to that.
"""

from tests.set_checker.blobs import Blobs, bucket_blobs, folder_blobs
from tests.set_checker.check import check_set
from tests.set_checker.verdict import SetVerdict

__all__ = ["Blobs", "SetVerdict", "bucket_blobs", "check_set", "folder_blobs"]
