-- Shared facts: small values under keys, each with a version, changed one at a time and told to whoever watches.
--
-- KEYS of a shard's facts, in this order wherever FACTS is written below:
--   data     hash: key -> `version;expires;value` (expires: server time in ms, 0 for never)
--   names    sorted set of the keys, all with score 0: their order
--   due      sorted set: key -> when it expires
--   changes  stream of the newest changes; an entry's id is `version-0`
--              p version of the change before, o put | delete | expire, k key, t ttl_ms, n nonce, b value
--   meta     hash: version (the newest drawn here), changed (the newest change's), bytes (of keys and values in changes)
--
-- Versions are drawn for changes, for tokens of locks and for barriers alike. They grow, and at least to the server's
-- time in microseconds, so that a server that lost its data cannot draw one twice.

local KEEP_CHANGES, KEEP_BYTES, LAPSE_AT_ONCE, LOOK_BACK = 4096, 4194304, 100, 100

local function draw_version(meta, now)
  local last = tonumber(redis.call('HGET', meta, 'version') or 0) or 0
  local version = string.format('%.0f', math.max(last + 1, now))
  redis.call('HSET', meta, 'version', version)
  return version
end

-- A key's version, when it expires and its value; version '0' if there is no such fact, or no longer.
local function fact_of(data, key, now)
  local version, expires, at = string.match(redis.call('HGET', data, key) or '', '^(%d+);(%d+);()')
  expires = tonumber(expires or 0)
  if not version or (expires > 0 and expires <= now / 1000) then
    return '0', 0, ''
  end
  return version, expires, string.sub(redis.call('HGET', data, key), at)
end

-- Put a change at the end, and forget the oldest ones beyond what is kept. A watcher that was there finds the gap: the
-- version before its next change is not the one that it knows.
local function tell_change(changes, meta, version, change)
  redis.call('XADD', changes, version .. '-0', 'p', redis.call('HGET', meta, 'changed') or '0', 'o', change.o,
    'k', change.k, 't', change.t or '0', 'n', change.n or '', 'b', change.b or '')
  redis.call('HSET', meta, 'changed', version)
  local bytes = redis.call('HINCRBY', meta, 'bytes', #change.k + #(change.b or ''))
  local count = redis.call('XLEN', changes)
  while count > 1 and (count > KEEP_CHANGES or bytes > KEEP_BYTES) do
    local oldest = redis.call('XRANGE', changes, '-', '+', 'COUNT', 1)[1]
    redis.call('XDEL', changes, oldest[1])
    bytes = redis.call('HINCRBY', meta, 'bytes', -#(oldest[2][6] or '') - #(oldest[2][12] or ''))
    count = count - 1
  end
end

local function forget_fact(keys, key)
  redis.call('HDEL', keys[1], key)
  redis.call('ZREM', keys[2], key)
  redis.call('ZREM', keys[3], key)
end

-- Facts that have expired become changes like any other. keys: FACTS
local function lapse_facts(keys, now)
  local lapsed = redis.call('ZRANGEBYSCORE', keys[3], '-inf', string.format('%.0f', now / 1000), 'LIMIT', 0, LAPSE_AT_ONCE)
  for _, key in ipairs(lapsed) do
    forget_fact(keys, key)
    tell_change(keys[4], keys[5], draw_version(keys[5], now), { o = 'expire', k = key })
  end
end

-- The version that a former call with this nonce was given; nil if it was never carried out.
local function written_before(changes, nonce)
  local newest = '+'
  while true do
    local page = redis.call('XREVRANGE', changes, newest, '-', 'COUNT', LOOK_BACK)
    for _, entry in ipairs(page) do
      if entry[2][10] == nonce then
        return string.match(entry[1], '^%d+')
      end
    end
    if #page < LOOK_BACK then return nil end
    newest = '(' .. page[#page][1]
  end
end

-- Whether an owner holds a lock at this moment, under this token.
local function holds_lock(held, seats, owner, token, now)
  local expires = tonumber(redis.call('ZSCORE', held, owner) or 0)
  return expires > now / 1000 and string.match(redis.call('HGET', seats, 'h' .. owner) or '', '^%d+') == token
end

-- swell_v1_fact_write: put, create or swap one fact; swell_v1_fact_delete: delete one.
-- KEYS  FACTS; with a fence also the lock's: held, seats
-- ARGV  put | delete, key, expected version ('' any, 0 none), ttl_ms (0 for ever), nonce, 1 if the call is repeated,
--       value, owner and token of the fence ('' without)
-- returns 0, version       done; version 0: there was nothing to delete
--      or 1, version       it is another one than expected (0: there is none)
--      or 2, 0             the fence's lock is not held, or by another
-- A repeated call that was carried out before changes nothing: its change, with its nonce, is among the newest ones.
local function fact_write(keys, args)
  local operation, key, expected, ttl, nonce = args[1], args[2], args[3], tonumber(args[4]), args[5]
  local now = now_us()
  if args[6] == '1' then
    local version = written_before(keys[4], nonce)
    if version then return { 0, version } end
  end
  if args[8] ~= '' and not holds_lock(keys[6], keys[7], args[8], args[9], now) then
    return { 2, '0' }
  end
  lapse_facts(keys, now)
  local found = fact_of(keys[1], key, now)
  if expected ~= '' and expected ~= found then
    return { 1, found }
  end
  if operation == 'delete' then
    if found == '0' then return { 0, '0' } end
    forget_fact(keys, key)
    local version = draw_version(keys[5], now)
    tell_change(keys[4], keys[5], version, { o = 'delete', k = key, n = nonce })
    return { 0, version }
  end
  local version = draw_version(keys[5], now)
  local expires = ttl > 0 and string.format('%.0f', math.floor(now / 1000) + ttl) or '0'
  redis.call('HSET', keys[1], key, version .. ';' .. expires .. ';' .. args[7])
  redis.call('ZADD', keys[2], 0, key)
  if ttl > 0 then
    redis.call('ZADD', keys[3], expires, key)
  else
    redis.call('ZREM', keys[3], key)
  end
  tell_change(keys[4], keys[5], version, { o = 'put', k = key, t = args[4], n = nonce, b = args[7] })
  return { 0, version }
end

-- swell_v1_fact_read: facts by their keys.
-- KEYS  data
-- ARGV  keys
-- returns for each: version (0: there is none), milliseconds until it expires (-1: never), value
local function fact_read(keys, args)
  local now = now_us()
  local answer = {}
  for _, key in ipairs(args) do
    local version, expires, value = fact_of(keys[1], key, now)
    answer[#answer + 1] = version
    answer[#answer + 1] = expires > 0 and string.format('%.0f', math.ceil(expires - now / 1000)) or '-1'
    answer[#answer + 1] = value
  end
  return answer
end

-- swell_v1_fact_names: keys in their order, those of facts that have just expired among them.
-- KEYS  data, names
-- ARGV  least and greatest key, as ZRANGEBYLEX takes them, count
-- returns for each: key, bytes of its record
local function fact_names(keys, args)
  local answer = {}
  for _, key in ipairs(redis.call('ZRANGEBYLEX', keys[2], args[1], args[2], 'LIMIT', 0, args[3])) do
    answer[#answer + 1] = key
    answer[#answer + 1] = redis.call('HSTRLEN', keys[1], key)
  end
  return answer
end

-- swell_v1_fact_tail: where a shard's changes end, after what has expired became one.
-- KEYS  FACTS of each shard
-- returns for each: the newest version drawn, the newest change's, milliseconds until the next fact expires (-1: none)
local function fact_tail(keys)
  local now = now_us()
  local answer = {}
  for i = 1, #keys, 5 do
    lapse_facts({ keys[i], keys[i + 1], keys[i + 2], keys[i + 3], keys[i + 4] }, now)
    local meta = redis.call('HMGET', keys[i + 4], 'version', 'changed')
    local due = tonumber(redis.call('ZRANGE', keys[i + 2], 0, 0, 'WITHSCORES')[2])
    answer[#answer + 1] = meta[1] or '0'
    answer[#answer + 1] = meta[2] or '0'
    answer[#answer + 1] = due and string.format('%.0f', math.max(0, math.ceil(due - now / 1000))) or '-1'
  end
  return answer
end

redis.register_function { function_name = 'swell_v1_fact_write', callback = fact_write }
redis.register_function { function_name = 'swell_v1_fact_delete', callback = fact_write, flags = { 'allow-oom' } }
redis.register_function { function_name = 'swell_v1_fact_read', callback = fact_read, flags = { 'no-writes' } }
redis.register_function { function_name = 'swell_v1_fact_names', callback = fact_names, flags = { 'no-writes' } }
redis.register_function { function_name = 'swell_v1_fact_tail', callback = fact_tail, flags = { 'allow-oom' } }
