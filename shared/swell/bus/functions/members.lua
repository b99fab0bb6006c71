-- The processes that live, sorted by name, each followed by what it says of itself.
local function living(members, info, now)
  local names = redis.call('ZRANGEBYSCORE', members, string.format('(%.0f', now), '+inf')
  table.sort(names)
  local answer = {}
  for _, name in ipairs(names) do
    answer[#answer + 1] = name
    answer[#answer + 1] = redis.call('HGET', info, name) or ''
  end
  return answer
end

-- swell_v1_heartbeat: say that a process lives, forget those that do not.
-- KEYS  members (sorted set: process -> when its heartbeat lapses), info (hash)
-- ARGV  process, ttl_ms (0: the process leaves), info
-- returns process, info, process, info, ... of all that live, sorted by name
-- Nobody can lapse later than a heartbeat that comes now, unless the clock was set back: then he lapses with it.
local function heartbeat(keys, args)
  local members, info = keys[1], keys[2]
  local process, ttl = args[1], tonumber(args[2])
  local now = now_us() / 1000
  if ttl > 0 then
    local lapses = string.format('%.0f', now + ttl)
    for _, ahead in ipairs(redis.call('ZRANGEBYSCORE', members, '(' .. lapses, '+inf')) do
      redis.call('ZADD', members, lapses, ahead)
    end
    redis.call('ZADD', members, lapses, process)
    redis.call('HSET', info, process, args[3])
  else
    redis.call('ZREM', members, process)
    redis.call('HDEL', info, process)
  end
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', members, '-inf', string.format('%.0f', now))) do
    redis.call('ZREM', members, gone)
    redis.call('HDEL', info, gone)
  end
  return living(members, info, now)
end

-- swell_v1_members: look who lives.
-- KEYS  members, info
-- returns as heartbeat does
local function members(keys)
  return living(keys[1], keys[2], now_us() / 1000)
end

redis.register_function { function_name = 'swell_v1_heartbeat', callback = heartbeat, flags = { 'allow-oom' } }
redis.register_function { function_name = 'swell_v1_members', callback = members, flags = { 'no-writes' } }
