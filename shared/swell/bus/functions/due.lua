-- swell_v1_settle_timed: settle, and store or remove messages that wait for their time, in one instant.
-- KEYS  for each inbox: the eight of settle, due (sorted set: id -> when, ms), later (hash: id -> what)
-- ARGV  for each inbox: as settle, then the number of those, and for each: id, what (1 store, 0 remove), when, value
-- returns as settle does
-- Storing under an id that is there already takes its place. What settle passes over is passed over here.
local function settle_timed(keys, args)
  local answer = {}
  local at = 1
  for base = 0, #keys - 10, 10 do
    local ledger, due, later = keys[base + 3], keys[base + 9], keys[base + 10]
    local valid, write
    valid, at, write = settle_shard(keys, base, args, at)
    answer[#answer + 1] = valid
    local writes = tonumber(args[at])
    at = at + 1
    local grown = 0
    for _ = 1, writes do
      if write then
        if args[at + 1] == '1' then
          grown = grown + redis.call('ZADD', due, args[at + 2], args[at])
          redis.call('HSET', later, args[at], args[at + 3])
        else
          grown = grown - redis.call('ZREM', due, args[at])
          redis.call('HDEL', later, args[at])
        end
      end
      at = at + 4
    end
    if grown ~= 0 then redis.call('HINCRBY', ledger, 'scheduled', grown) end
  end
  return answer
end

-- Bytes moved by one call, about: a bound on how long the server is busy with it alone.
local MOVED_BYTES = 4194304

-- The key of the inbox that a message goes to, by the first byte of what is stored of it; else the normal one.
local INBOX = { c = 6, h = 7, l = 8 }

-- swell_v1_fire: move what is due into its inbox.
-- KEYS  inbox, lease, ledger, due, later, the inboxes of critical, high and low messages
-- ARGV  epoch, token, the most that are due once, then for each that recurs: id, when it is due, next, kind, batch
-- returns 0, or: 1, now (ms), when the earliest is due that is left ('' if none is), moved, left,
--         then for each that is due and recurs: id, when, what
-- One that recurs is moved only if it is due at the given time still: the same call again finds the next time there.
-- No depth limit: what is moved was in memory before.
local function fire(keys, args)
  local lease, ledger, due, later = keys[2], keys[3], keys[4], keys[5]
  if not holds(lease, args[1], args[2]) then
    return { 0 }
  end
  local moved, left, bytes = 0, 0, 0
  for i = 4, #args, 5 do
    local score = redis.call('ZSCORE', due, args[i])
    if score and tonumber(score) == tonumber(args[i + 1]) then
      redis.call('XADD', keys[INBOX[args[i + 3]] or 1], '*', 'n', '1', 'b', args[i + 4])
      redis.call('ZADD', due, args[i + 2], args[i])
      moved = moved + 1
    end
  end
  local now = math.floor(now_us() / 1000)
  local answer = { 1, string.format('%.0f', now), '', 0, 0 }
  local ready = redis.call('ZRANGEBYSCORE', due, '-inf', string.format('%.0f', now), 'WITHSCORES', 'LIMIT', 0, args[3])
  for i = 1, #ready, 2 do
    local id = ready[i]
    local value = redis.call('HGET', later, id) or ''
    bytes = bytes + #value
    local kind = string.sub(value, 1, 1)
    if kind == 'r' then
      answer[#answer + 1] = id
      answer[#answer + 1] = ready[i + 1]
      answer[#answer + 1] = value
    else
      if value ~= '' then
        redis.call('XADD', keys[INBOX[kind] or 1], '*', 'n', '1', 'b', string.sub(value, 2))
        moved = moved + 1
      end
      redis.call('ZREM', due, id)
      redis.call('HDEL', later, id)
      left = left + 1
    end
    if bytes > MOVED_BYTES then break end
  end
  if moved > 0 then
    redis.call('HINCRBY', ledger, 'sent', moved)
    redis.call('HINCRBY', ledger, 'depth', moved)
  end
  if left > 0 then redis.call('HINCRBY', ledger, 'scheduled', -left) end
  local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
  answer[3] = first[2] or ''
  answer[4] = moved
  answer[5] = redis.call('ZCARD', due)
  return answer
end

redis.register_function { function_name = 'swell_v1_settle_timed', callback = settle_timed, flags = { 'allow-oom' } }
redis.register_function { function_name = 'swell_v1_fire', callback = fire, flags = { 'allow-oom' } }
