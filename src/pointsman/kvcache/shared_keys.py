"""How a shared index lies in Redis or Valkey: names, and the scripts that change and read it. No I/O.

Under ``pointsman:{SCOPE}:`` (the braces keep a scope in one slot of a cluster):

- ``keys:RANK:POD:TIER``: a set of block keys, eight bytes each, little-endian;
- ``meta:RANK:POD``: a hash: ``version`` (one more with every change), ``whole`` (0 while a rewrite is under way),
  ``seq`` and ``ts`` (number and engine time stamp of the newest batch applied), ``block_size``, ``models``,
  ``confidence``, ``wall`` (when it was written, seconds since 1970);
- ``lease:RANK:POD``: who may write this holder;
- ``holders``: a sorted set of ``RANK:POD`` by the time its keys expire;
- ``log``: a capped stream of changes.

Everything is done by scripts, for three reasons: a writer whose lease ran out while it was held up cannot write any
more; the change of the sets, the version and the entry of the log are one; and block keys travel as one string, which
costs the event loop 0.02 us per block instead of 1 us as arguments of a command.
"""

from __future__ import annotations

KEY_BYTES = 8
LOG_ENTRIES = 10_000
"""Kept in the log: five seconds of 500 busy pods. Who fell farther behind loads anew."""
DELTA_KEYS = 8192
"""Keys in one change: 64 KB, and 3 ms of Redis."""

LOST, ANEW = 0, -1
"""Answers of WRITE: the lease is another's; what is stored is not ours to add to, write it whole."""

_ADD = """
local function each(command, key, blob)
  for from = 1, #blob, 32000 do
    local part = {}
    for at = from, math.min(from + 31999, #blob), 8 do part[#part + 1] = string.sub(blob, at, at + 7) end
    redis.call(command, key, unpack(part))
  end
end
"""

TAKE = """
if redis.call('TYPE', KEYS[1]).ok ~= 'string' then redis.call('DEL', KEYS[1]) end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]); return 1 end
return 0
"""
"""KEYS: lease. ARGV: token, lease in ms."""

RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
local version = redis.call('HGET', KEYS[2], 'version')
if version then
  redis.call('HSET', KEYS[2], 'confidence', '0')
  redis.call('XADD', KEYS[7], 'MAXLEN', '~', ARGV[3], '*', 'h', ARGV[2], 'v', version, 'k', 'alive', 'x', '0')
end
return 1
"""
"""KEYS: as WRITE. ARGV: token, holder, entries of the log. What is stored is but a memory from now on."""

WRITE = (
    _ADD
    + """
local lease, meta, holders, log = KEYS[1], KEYS[2], KEYS[6], KEYS[7]
local kind, ttl = ARGV[6], ARGV[3]
if redis.call('GET', lease) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', lease, ARGV[2])
local time = redis.call('TIME')
if kind == 'begin' then
  local before = redis.pcall('HGET', meta, 'version')
  before = type(before) == 'string' and tonumber(before) or 0
  redis.call('DEL', meta, KEYS[3], KEYS[4], KEYS[5])
  if redis.call('TYPE', holders).ok ~= 'zset' then redis.call('DEL', holders) end
  if redis.call('TYPE', log).ok ~= 'stream' then redis.call('DEL', log) end
  local version = math.max(before + 1, time[1] * 1000000 + time[2])
  redis.call('HSET', meta, 'version', string.format('%.0f', version), 'whole', '0')
else
  local whole = redis.call('HGET', meta, 'whole')
  if whole ~= ((kind == 'more' or kind == 'end') and '0' or '1') then return -1 end
end
for tier in string.gmatch(ARGV[7], '%d') do redis.call('DEL', KEYS[3 + tier]) end
for tier = 0, 2 do
  each('SADD', KEYS[3 + tier], ARGV[14 + tier])
  each('SREM', KEYS[3 + tier], ARGV[17 + tier])
end
redis.call('HSET', meta, 'seq', ARGV[8], 'ts', ARGV[9], 'block_size', ARGV[10], 'models', ARGV[11],
  'confidence', ARGV[12], 'wall', ARGV[13])
if kind == 'end' then redis.call('HSET', meta, 'whole', '1') end
local version = kind == 'alive' and tonumber(redis.call('HGET', meta, 'version'))
  or redis.call('HINCRBY', meta, 'version', 1)
for at = 2, 5 do redis.call('EXPIRE', KEYS[at], ttl) end
redis.call('ZADD', holders, time[1] + ttl, ARGV[4])
redis.call('ZREMRANGEBYSCORE', holders, '-inf', time[1])
if kind == 'begin' or kind == 'more' then return version end
local entry = {'h', ARGV[4], 'v', string.format('%.0f', version), 'k', kind, 'x', ARGV[12]}
if kind == 'delta' then
  if ARGV[7] ~= '' then entry[#entry + 1] = 'c'; entry[#entry + 1] = ARGV[7] end
  for tier = 0, 2 do
    if ARGV[14 + tier] ~= '' then entry[#entry + 1] = 's' .. tier; entry[#entry + 1] = ARGV[14 + tier] end
    if ARGV[17 + tier] ~= '' then entry[#entry + 1] = 'd' .. tier; entry[#entry + 1] = ARGV[17 + tier] end
  end
end
redis.call('XADD', log, 'MAXLEN', '~', ARGV[5], '*', unpack(entry))
redis.call('EXPIRE', log, ttl)
redis.call('EXPIRE', holders, ttl)
return version
"""
)
"""KEYS: lease, meta, the three sets, holders, log. ARGV: token, lease in ms, TTL in s, holder, entries of the log, kind
(``begin``, ``more``, ``end``: a rewrite; ``delta``; ``alive``), digits of the tiers to empty, seq, ts, block size,
models, confidence, wall, keys to add by tier, keys to take away by tier. Answers :data:`LOST`, :data:`ANEW` or the
version."""

REMOVE = """
local owner = redis.pcall('GET', KEYS[1])
if type(owner) == 'string' and owner ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5])
redis.call('ZREM', KEYS[6], ARGV[2])
redis.call('XADD', KEYS[7], 'MAXLEN', '~', ARGV[3], '*', 'h', ARGV[2], 'v', '0', 'k', 'gone', 'x', '0')
return 1
"""
"""KEYS: as WRITE. ARGV: token, holder, entries of the log. Nothing happens while another one writes the holder."""

SCAN = """
local found = redis.call('SSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local good, bad = {}, 0
for _, member in ipairs(found[2]) do
  if #member == 8 then good[#good + 1] = member else bad = bad + 1 end
end
return {found[1], table.concat(good), bad}
"""
"""KEYS: a set. ARGV: cursor, how many about. Answers cursor, keys in one string, members that are no keys."""


class Names:
    """Key names of a scope."""

    def __init__(self, scope: str) -> None:
        self._root = f"pointsman:{{{scope}}}:"
        self.holders = f"{self._root}holders"
        self.log = f"{self._root}log"

    def lease(self, holder: str) -> str:
        return f"{self._root}lease:{holder}"

    def meta(self, holder: str) -> str:
        return f"{self._root}meta:{holder}"

    def tier(self, holder: str, tier: int) -> str:
        """The set of one tier."""
        return f"{self._root}keys:{holder}:{tier}"

    def all(self, holder: str) -> tuple[str, ...]:
        """KEYS of WRITE and REMOVE."""
        tiers = (self.tier(holder, tier) for tier in range(3))
        return (self.lease(holder), self.meta(holder), *tiers, self.holders, self.log)


def holder_name(pod: str, rank: int) -> str:
    """A pod's rank as one word."""
    return f"{rank}:{pod}"


def parse_holder(name: bytes) -> tuple[str, int] | None:
    """The reverse of :func:`holder_name`; None for what it did not make."""
    rank, colon, pod = name.decode(errors="replace").partition(":")
    if not colon or not pod or not rank.isascii() or not rank.isdigit() or len(rank) > 4 or "\ufffd" in pod:
        return None
    return pod, int(rank)
