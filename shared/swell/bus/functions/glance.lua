-- swell_v1_glance: how shards are, without walking through their inboxes.
-- KEYS  for each shard: lease, ledger, then all its inboxes
-- ARGV  inboxes of a shard
-- returns for each shard: age of the oldest entry that nobody settled in ms (-1: there is none), owner, ms left of the
--   lease, ms since it was granted, then the ledger's fields and values

local function glance(keys, args)
  local now = now_us()
  local answer = {}
  local step = 2 + args[1]
  for i = 1, #keys, step do
    local age = -1
    for place = i + 2, i + step - 1 do
      local oldest = redis.call('XRANGE', keys[place], '-', '+', 'COUNT', 1)[1]
      if oldest then
        age = math.max(age, 0, now / 1000 - string.match(oldest[1], '^%d+'))
      end
    end
    local held = redis.call('HMGET', keys[i], 'owner', 'epoch', 'expires')
    local left = math.max(0, (held[3] or 0) - now / 1000)
    -- The epoch is the server's time of the grant, or later if a clock was set back.
    local since = math.max(0, now - (held[2] or now)) / 1000
    local one = { string.format('%.0f', age), held[1] or '', string.format('%.0f', left), string.format('%.0f', since) }
    for _, item in ipairs(redis.call('HGETALL', keys[i + 1])) do
      one[#one + 1] = item
    end
    answer[#answer + 1] = one
  end
  return answer
end

redis.register_function { function_name = 'swell_v1_glance', callback = glance, flags = { 'no-writes' } }
