-- swell_v1_acquire: become the owner of a free or lapsed shard.
-- KEYS  lease, ledger, then for each inbox of the shard: itself, deliveries
-- ARGV  owner (its name is also the name of its consumer group), token, lease_ms
-- returns 1, epoch          granted
--      or 0, owner, ms left  refused
--
-- The epoch grows, and at least to the server's time, so that a replica that missed grants cannot hand one out twice.
-- The old groups go and ours begin at 0: each stream holds exactly what is unsettled, so we read it all, in order,
-- and a zombie's read fails with NOGROUP. What a dead owner held is counted first: an entry that kills its owners
-- shows by that count. A shard that was released holds nothing of its owner's, and an owner that takes its own shard
-- again is not dead.

-- Count each entry that the dead owner's group held. A group that was destroyed by hand holds nothing.
local function count_deliveries(inbox, group, deliveries)
  local from = '-'
  while true do
    local page = redis.pcall('XPENDING', inbox, group, from, '+', 1000)
    if page.err then return end
    for _, entry in ipairs(page) do
      local deaths, trials = held_by(deliveries, entry[1])
      redis.call('HSET', deliveries, entry[1], deaths + 1 .. trials)
    end
    if #page < 1000 then return end
    from = '(' .. page[#page][1]
  end
end

local function acquire(keys, args)
  local lease, ledger = keys[1], keys[2]
  local owner, token, lease_ms = args[1], args[2], tonumber(args[3])
  local held = redis.call('HMGET', lease, 'owner', 'epoch', 'expires', 'group', 'ttl')
  local now = now_us()
  local left = (tonumber(held[3] or 0) or 0) - now / 1000
  local ttl = tonumber(held[5] or lease_ms) or lease_ms
  if left > ttl then
    -- The clock was set back since the last renewal: no lease may last longer than it was given for.
    left = ttl
    redis.call('HSET', lease, 'expires', string.format('%.0f', now / 1000 + ttl))
  end
  if left > 0 and held[1] ~= owner then
    return { 0, held[1], math.ceil(left) }
  end
  if left <= 0 and held[1] and held[1] ~= '' and held[1] ~= owner then
    redis.call('HINCRBY', ledger, 'lapsed', 1)
  end
  for i = 3, #keys, 2 do
    local inbox, deliveries = keys[i], keys[i + 1]
    if held[4] then
      if held[1] ~= '' and left <= 0 and redis.call('EXISTS', inbox) == 1 then
        count_deliveries(inbox, held[4], deliveries)
      end
      redis.pcall('XGROUP', 'DESTROY', inbox, held[4])
    end
    redis.pcall('XGROUP', 'DESTROY', inbox, owner)
    redis.call('XGROUP', 'CREATE', inbox, owner, '0', 'MKSTREAM')
  end
  local epoch = string.format('%.0f', math.max((tonumber(held[2] or 0) or 0) + 1, now))
  redis.call('HDEL', lease, 'settlement')
  redis.call('HSET', lease, 'owner', owner, 'group', owner, 'epoch', epoch, 'token', token,
    'expires', string.format('%.0f', now / 1000 + lease_ms), 'ttl', lease_ms)
  return { 1, epoch }
end

redis.register_function { function_name = 'swell_v1_acquire', callback = acquire, flags = { 'allow-oom' } }
