-- swell_v1_arrive: come to a barrier, say that one still waits there, or leave it.
-- KEYS  arrived  sorted set: party -> when it counts as dead unless it comes again (server time, ms)
--       passed   sorted set: party -> the generation that it passed with; the newest KEEP_PASSED, for an hour
--       parties  string: how many the present generation waits for
--       turns    of the shard, see holds.lua; here an entry has no owner, and its id is the generation's
--       meta     of the shard's facts: generations are drawn there
-- ARGV  name, party (unique for each time that somebody comes), parties, ttl_ms (0: leave), 1 if it comes, 0 if it waits
-- returns 1, generation   all are there, or were
--      or 0, arrived      waits
--      or 2, parties      others wait here for another number
--      or 3, 0            it waited, and is not counted any more: it was silent for too long, or the server forgot
-- Who comes with another number of parties than those who wait is refused, unless nobody waits.
local KEEP_PASSED, PASSED_MS = 10000, 3600000

local function arrive(keys, args)
  local name, party, ttl = args[1], args[2], tonumber(args[4])
  local now = math.floor(now_us() / 1000)
  local generation = redis.call('ZSCORE', keys[2], party)
  if generation then return { 1, generation } end
  redis.call('ZREMRANGEBYSCORE', keys[1], '-inf', string.format('%.0f', now))
  if ttl == 0 then
    redis.call('ZREM', keys[1], party)
    return { 0, redis.call('ZCARD', keys[1]) }
  elseif args[5] == '0' and not redis.call('ZSCORE', keys[1], party) then
    return { 3, 0 }
  elseif redis.call('ZCARD', keys[1]) > 0 and redis.call('GET', keys[3]) ~= args[3] then
    return { 2, redis.call('GET', keys[3]) or '0' }
  end
  redis.call('ZADD', keys[1], string.format('%.0f', now + ttl), party)
  local arrived = redis.call('ZCARD', keys[1])
  if arrived < tonumber(args[3]) then
    redis.call('SET', keys[3], args[3], 'KEEPTTL')
    keep_for(keys[1], ttl + SLACK_MS)
    keep_for(keys[3], ttl + SLACK_MS)
    return { 0, arrived }
  end
  generation = draw_version(keys[5], now * 1000)
  for _, one in ipairs(redis.call('ZRANGE', keys[1], 0, -1)) do
    redis.call('ZADD', keys[2], generation, one)
  end
  redis.call('ZREMRANGEBYRANK', keys[2], 0, -KEEP_PASSED - 1)
  keep_for(keys[2], PASSED_MS)
  redis.call('DEL', keys[1], keys[3])
  tell_turn(keys[4], generation, name, '')
  return { 1, generation }
end

redis.register_function { function_name = 'swell_v1_arrive', callback = arrive, flags = { 'allow-oom' } }
