"""``make bench``: replblk beside the plain disk, qemu-nbd and QEMU's mirror, in one run.

__main__.py     which rows, how many rounds; prints the table and writes docs/performance.md
contenders.py   who is measured: each starts, serves an NBD export or a file, and ends
mirror.py       QEMU's synchronous mirror, flushed on both ends
load.py         fio's figures, CPU time of the daemons, the raw disk's own group commit
proof.py        strace: that every acknowledged write was flushed, on every end
report.py       the tables as text and as a page
"""
