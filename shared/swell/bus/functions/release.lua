-- swell_v1_release: give a shard back, with nothing of it in our hands.
-- KEYS  lease, then all inboxes of the shard
-- ARGV  epoch, token
-- returns 1, or 0 if it was no longer ours
-- The epoch stays: it only ever grows.
local function release(keys, args)
  local lease = keys[1]
  if not holds(lease, args[1], args[2]) then
    return 0
  end
  local group = redis.call('HGET', lease, 'group')
  for i = 2, #keys do
    redis.pcall('XGROUP', 'DESTROY', keys[i], group)
  end
  redis.call('HSET', lease, 'owner', '', 'token', '', 'expires', '0')
  redis.call('HDEL', lease, 'group')
  return 1
end

redis.register_function { function_name = 'swell_v1_release', callback = release, flags = { 'allow-oom' } }
