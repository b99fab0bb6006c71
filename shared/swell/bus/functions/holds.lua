-- Locks, semaphores and leaders: a name with `limit` seats, its holders, and a line of those who wait.
--
-- KEYS of a name, in this order wherever SEATS is written below:
--   held   sorted set: owner -> when its seat lapses unless renewed (server time, ms)
--   line   sorted set: owner -> its ticket; the smallest is served first
--   seats  hash: limit, ttl (the longest that anyone asked for, ms), ticket (the last one given),
--          h<owner> `token;since` of a holder, w<owner> `lapses;ttl` of one who waits
--   turns  stream of the shard: who was given a seat while it waited; an entry's id is `token-0` (n name, o owner)
--   meta   of the shard's facts: tokens are drawn there
--   locks  sorted set of the shard: name -> when all that is known of it lapses, unless somebody comes
-- All but meta expire a minute after the last of their times has passed.

local SLACK_MS, KEEP_TURNS, TURNS_MS = 60000, 1000, 3600000

-- Keep a key for so long at least.
local function keep_for(key, ms)
  if redis.call('PTTL', key) < ms then
    redis.call('PEXPIRE', key, string.format('%.0f', ms))
  end
end

local function tell_turn(turns, version, name, owner)
  redis.call('XADD', turns, 'MAXLEN', '~', KEEP_TURNS, version .. '-0', 'n', name, 'o', owner)
  keep_for(turns, TURNS_MS)
end

-- Free the seats of those who did not renew them. Nobody can lapse later than a ttl from now, unless the clock was set
-- back: then he lapses at that time.
local function lapse_seats(keys, now)
  local latest = now + (tonumber(redis.call('HGET', keys[3], 'ttl') or 0) or 0)
  for _, ahead in ipairs(redis.call('ZRANGEBYSCORE', keys[1], string.format('(%.0f', latest), '+inf')) do
    redis.call('ZADD', keys[1], string.format('%.0f', latest), ahead)
  end
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', keys[1], '-inf', string.format('%.0f', now))) do
    redis.call('ZREM', keys[1], gone)
    redis.call('HDEL', keys[3], 'h' .. gone)
  end
end

-- Give free seats to those who wait, the first first, and pass over those who have died; `own` needs not be told.
local function give_seats(keys, name, own, now)
  local free = (tonumber(redis.call('HGET', keys[3], 'limit') or 0) or 0) - redis.call('ZCARD', keys[1])
  while free > 0 do
    local first = redis.call('ZRANGE', keys[2], 0, 0)[1]
    if not first then return end
    local lapses, ttl = string.match(redis.call('HGET', keys[3], 'w' .. first) or '', '^(%d+);(%d+)$')
    redis.call('ZREM', keys[2], first)
    redis.call('HDEL', keys[3], 'w' .. first)
    if lapses and tonumber(lapses) > now then
      local token = draw_version(keys[5], now * 1000)
      redis.call('ZADD', keys[1], string.format('%.0f', now + ttl), first)
      redis.call('HSET', keys[3], 'h' .. first, token .. ';' .. string.format('%.0f', now))
      free = free - 1
      if first ~= own then tell_turn(keys[4], token, name, first) end
    end
  end
end

-- Nobody's seat may lapse later than the longest time that anyone asked for.
local function lengthen(seats, ttl)
  if ttl > (tonumber(redis.call('HGET', seats, 'ttl') or 0) or 0) then
    redis.call('HSET', seats, 'ttl', string.format('%.0f', ttl))
  end
end

-- Forget a name that nobody holds or waits for; else keep it for as long as it may matter.
local function keep_seats(keys, locks, name, now)
  if redis.call('ZCARD', keys[1]) == 0 and redis.call('ZCARD', keys[2]) == 0 then
    redis.call('DEL', keys[1], keys[2], keys[3])
    redis.call('ZREM', locks, name)
    return
  end
  local ttl = tonumber(redis.call('HGET', keys[3], 'ttl') or 0) or 0
  for i = 1, 3 do keep_for(keys[i], ttl + SLACK_MS) end
  redis.call('ZREMRANGEBYSCORE', locks, '-inf', string.format('%.0f', now))
  redis.call('ZADD', locks, string.format('%.0f', now + ttl), name)
  keep_for(locks, ttl + SLACK_MS)
end

-- swell_v1_hold: take a seat, or a place in the line; called again by one who waits, it keeps his place.
-- KEYS  SEATS
-- ARGV  name, owner (unique for each time that somebody wants a seat), limit, ttl_ms
-- returns 1, token            held
--      or 0, ahead, ms        waits: how many before it, milliseconds until the next seat may lapse (-1: none held)
--      or 2, limit            others use the name with another limit
local function hold(keys, args)
  local name, owner, limit, ttl = args[1], args[2], args[3], tonumber(args[4])
  local now = math.floor(now_us() / 1000)
  lapse_seats(keys, now)
  give_seats(keys, name, owner, now)
  if redis.call('ZCARD', keys[1]) == 0 and redis.call('ZCARD', keys[2]) == 0 then
    redis.call('DEL', keys[3])
    redis.call('HSET', keys[3], 'limit', limit)
  elseif redis.call('HGET', keys[3], 'limit') ~= limit then
    return { 2, redis.call('HGET', keys[3], 'limit') or '0' }
  end
  lengthen(keys[3], ttl)
  if redis.call('ZSCORE', keys[1], owner) then
    redis.call('ZADD', keys[1], string.format('%.0f', now + ttl), owner)
  else
    if not redis.call('ZSCORE', keys[2], owner) then
      redis.call('ZADD', keys[2], redis.call('HINCRBY', keys[3], 'ticket', 1), owner)
    end
    redis.call('HSET', keys[3], 'w' .. owner, string.format('%.0f', now + ttl) .. ';' .. args[4])
    give_seats(keys, name, owner, now)
  end
  keep_seats(keys, keys[6], name, now)
  local seat = redis.call('HGET', keys[3], 'h' .. owner)
  if seat then
    return { 1, string.match(seat, '^%d+') }
  end
  local next_free = tonumber(redis.call('ZRANGE', keys[1], 0, 0, 'WITHSCORES')[2])
  return { 0, redis.call('ZRANK', keys[2], owner), next_free and math.max(0, next_free - now) or -1 }
end

-- swell_v1_hold_renew: keep seats.
-- KEYS  for each: held, line, seats, locks
-- ARGV  for each: name, owner, token, ttl_ms
-- returns for each 1, or 0 if the seat is no longer the owner's
-- Whether it has lapsed is not asked: until somebody else was let in, nothing has happened without its owner.
local function hold_renew(keys, args)
  local now = math.floor(now_us() / 1000)
  local answer = {}
  for i = 1, #keys, 4 do
    local own = { keys[i], keys[i + 1], keys[i + 2] }
    local name, owner, token, ttl = args[i], args[i + 1], args[i + 2], tonumber(args[i + 3])
    if string.match(redis.call('HGET', own[3], 'h' .. owner) or '', '^%d+') == token then
      lengthen(own[3], ttl)
      redis.call('ZADD', own[1], string.format('%.0f', now + ttl), owner)
      keep_seats(own, keys[i + 3], name, now)
      answer[#answer + 1] = 1
    else
      answer[#answer + 1] = 0
    end
  end
  return answer
end

-- swell_v1_hold_leave: give a seat back, or leave the line; whoever is next is let in.
-- KEYS  SEATS
-- ARGV  name, owner, token: '0' for whatever the owner holds, else a seat under another token stays
-- returns 1 if it gave a seat back, else 0
local function hold_leave(keys, args)
  local now = math.floor(now_us() / 1000)
  local token = string.match(redis.call('HGET', keys[3], 'h' .. args[2]) or '', '^%d+')
  local held = 0
  if args[3] == '0' or args[3] == token then
    held = redis.call('ZREM', keys[1], args[2])
    redis.call('HDEL', keys[3], 'h' .. args[2])
  end
  redis.call('ZREM', keys[2], args[2])
  redis.call('HDEL', keys[3], 'w' .. args[2])
  lapse_seats(keys, now)
  give_seats(keys, args[1], args[2], now)
  keep_seats(keys, keys[6], args[1], now)
  return held
end

-- swell_v1_hold_names: the names that are held or waited for, in order.
-- KEYS  locks
-- ARGV  only names greater than this one, count
local function hold_names(keys, args)
  local found = {}
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', keys[1], string.format('(%.0f', now_us() / 1000), '+inf')) do
    if name > args[1] then found[#found + 1] = name end
  end
  table.sort(found)
  local answer = {}
  for i = 1, math.min(#found, tonumber(args[2])) do answer[i] = found[i] end
  return answer
end

-- swell_v1_hold_show: who holds what.
-- KEYS  for each name: held, line, seats
-- returns for each: limit, how many wait, then for each holder: owner, token, milliseconds held, milliseconds left
local function hold_show(keys)
  local now = math.floor(now_us() / 1000)
  local answer = {}
  for i = 1, #keys, 3 do
    local one = { redis.call('HGET', keys[i + 2], 'limit') or '0', redis.call('ZCARD', keys[i + 1]) }
    local held = redis.call('ZRANGEBYSCORE', keys[i], string.format('(%.0f', now), '+inf', 'WITHSCORES')
    for j = 1, #held, 2 do
      local token, since = string.match(redis.call('HGET', keys[i + 2], 'h' .. held[j]) or '', '^(%d+);(%d+)$')
      one[#one + 1] = held[j]
      one[#one + 1] = token or '0'
      one[#one + 1] = math.max(0, now - (since or now))
      one[#one + 1] = held[j + 1] - now
    end
    answer[#answer + 1] = one
  end
  return answer
end

redis.register_function { function_name = 'swell_v1_hold', callback = hold, flags = { 'allow-oom' } }
redis.register_function { function_name = 'swell_v1_hold_renew', callback = hold_renew, flags = { 'allow-oom' } }
redis.register_function { function_name = 'swell_v1_hold_leave', callback = hold_leave, flags = { 'allow-oom' } }
redis.register_function { function_name = 'swell_v1_hold_names', callback = hold_names, flags = { 'no-writes' } }
redis.register_function { function_name = 'swell_v1_hold_show', callback = hold_show, flags = { 'no-writes' } }
