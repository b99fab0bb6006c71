-- swell_v1_settle: write what became of entries, and records, of several shards.
-- KEYS  for each inbox: inbox, lease, ledger, partial, deliveries, agents, dead, tasks
-- ARGV  for each inbox: epoch, token, group, number of the settlement (0: none), outcomes, then for each outcome:
--         id, done (1 or 0), acked, dead, expired (totals over the whole entry), bitmap, letters, then each letter
--       then the number of records, and for each: id, what (1 set, 0 delete), record
-- returns for each inbox 1, or 0 if its epoch is stale; then nothing of it was written
--
-- Totals, not increases: what `partial` remembers of the entry is subtracted, and an entry that is gone is passed over,
-- so the same call twice changes nothing the second time. Records are not totals: settlements of one lease are numbered,
-- and one that comes after a later one, or again, is passed over whole (and answered 1). allow-oom: settling is what makes room.

-- Dead letters are settled messages, kept for people: the newest so many of each shard.
local KEEP_LETTERS = 10000

-- Totals recorded for an entry earlier, from "acked:dead:expired:bitmap".
local function recorded(partial, id)
  local value = redis.call('HGET', partial, id)
  if not value then
    return 0, 0, 0
  end
  local acked, dead, expired = string.match(value, '^(%d+):(%d+):(%d+):')
  return tonumber(acked), tonumber(dead), tonumber(expired)
end

-- Whether to pass over settlement `seq` of this lease; else it is noted as the newest.
local function settled_before(lease, seq)
  if seq == 0 then
    return false
  elseif seq <= tonumber(redis.call('HGET', lease, 'settlement') or 0) then
    return true
  end
  redis.call('HSET', lease, 'settlement', seq)
  return false
end

local function settle_shard(keys, base, args, at)
  local inbox, lease, ledger = keys[base + 1], keys[base + 2], keys[base + 3]
  local partial, deliveries, agents, dead_letters = keys[base + 4], keys[base + 5], keys[base + 6], keys[base + 7]
  local tasks = keys[base + 8]
  local valid = holds(lease, args[at], args[at + 1])
  local late = valid and settled_before(lease, tonumber(args[at + 3]))
  local group, outcomes = args[at + 2], tonumber(args[at + 4])
  at = at + 5
  local acked, dead, expired, foreign = 0, 0, 0, 0
  local half = valid and redis.call('EXISTS', partial) == 1
  local counted = valid and redis.call('EXISTS', deliveries) == 1
  if not valid then
    redis.call('HINCRBY', ledger, 'stale', 1)
  end
  local write = valid and not late
  for _ = 1, outcomes do
    local id, done = args[at], args[at + 1] == '1'
    local a, d, e = tonumber(args[at + 2]), tonumber(args[at + 3]), tonumber(args[at + 4])
    local bitmap, letters = args[at + 5], tonumber(args[at + 6])
    at = at + 7
    if write then
      local exists
      if done then
        exists = redis.call('XDEL', inbox, id) == 1
        redis.call('XACK', inbox, group, id)
      else
        exists = #redis.call('XRANGE', inbox, id, id) == 1
      end
      if exists then
        local a0, d0, e0 = 0, 0, 0
        if half then
          a0, d0, e0 = recorded(partial, id)
        end
        if done then
          if half then redis.call('HDEL', partial, id) end
          if counted then redis.call('HDEL', deliveries, id) end
        else
          redis.call('HSET', partial, id, a .. ':' .. d .. ':' .. e .. ':' .. bitmap)
          half = true
        end
        if a + d + e == 0 and done then
          foreign = foreign + 1
        end
        acked, dead, expired = acked + a - a0, dead + d - d0, expired + e - e0
        if d > d0 or a + d + e == 0 then
          -- After a lost reply an outcome may come again with more: the letters of the first time stand already.
          local known = math.max(0, letters - math.max(d - d0, 1))
          for i = at + known, at + letters - 1 do
            redis.call('XADD', dead_letters, 'MAXLEN', '~', KEEP_LETTERS, '*', 'b', args[i])
          end
        end
      end
    end
    at = at + letters
  end
  local records = tonumber(args[at])
  at = at + 1
  for _ = 1, records do
    if write then
      -- There may be many of tasks, and whoever lists agents shall not read them.
      local hash = string.sub(args[at], 1, 5) == '$task' and tasks or agents
      if args[at + 1] == '1' then
        redis.call('HSET', hash, args[at], args[at + 2])
      else
        redis.call('HDEL', hash, args[at])
      end
    end
    at = at + 3
  end
  local settled = acked + dead + expired
  if acked ~= 0 then redis.call('HINCRBY', ledger, 'acked', acked) end
  if dead ~= 0 then redis.call('HINCRBY', ledger, 'dead', dead) end
  if expired ~= 0 then redis.call('HINCRBY', ledger, 'expired', expired) end
  if foreign ~= 0 then redis.call('HINCRBY', ledger, 'foreign', foreign) end
  if settled ~= 0 then redis.call('HINCRBY', ledger, 'depth', -settled) end
  return valid and 1 or 0, at, write
end

local function settle(keys, args)
  local answer = {}
  local at = 1
  for base = 0, #keys - 8, 8 do
    answer[#answer + 1], at = settle_shard(keys, base, args, at)
  end
  return answer
end

redis.register_function { function_name = 'swell_v1_settle', callback = settle, flags = { 'allow-oom' } }
