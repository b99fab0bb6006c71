-- swell_v1_glance: how shards are, without walking through their inboxes.
-- KEYS  inbox, lease, ledger of each shard
-- returns for each shard: age of the oldest entry that nobody settled in ms (-1: there is none), owner, ms left of the
--   lease, ms since it was granted, then the ledger's fields and values

local function glance(keys)
  local now = now_us()
  local answer = {}
  for i = 1, #keys, 3 do
    local oldest = redis.call('XRANGE', keys[i], '-', '+', 'COUNT', 1)[1]
    local age = oldest and math.max(0, now / 1000 - string.match(oldest[1], '^%d+')) or -1
    local held = redis.call('HMGET', keys[i + 1], 'owner', 'epoch', 'expires')
    local left = math.max(0, (held[3] or 0) - now / 1000)
    -- The epoch is the server's time of the grant, or later if a clock was set back.
    local since = math.max(0, now - (held[2] or now)) / 1000
    local one = { string.format('%.0f', age), held[1] or '', string.format('%.0f', left), string.format('%.0f', since) }
    for _, item in ipairs(redis.call('HGETALL', keys[i + 2])) do
      one[#one + 1] = item
    end
    answer[#answer + 1] = one
  end
  return answer
end

redis.register_function { function_name = 'swell_v1_glance', callback = glance, flags = { 'no-writes' } }
