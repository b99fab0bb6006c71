-- Shared by the functions below: server time, and the fencing check of everything an owner writes.

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Whether (epoch, token) is the newest grant of this lease. Expiry is not asked: until somebody else has acquired
-- the shard, what its last owner did is still the only thing that happened to it.
local function holds(lease, epoch, token)
  local held = redis.call('HMGET', lease, 'epoch', 'token')
  return held[1] == epoch and held[2] == token
end

-- swell_v1_renew: prolong leases.
-- KEYS  lease of each shard
-- ARGV  lease_ms, then for each shard: epoch, token
-- returns for each shard 1, or 0 if it is no longer ours
local function renew(keys, args)
  local expires = string.format('%.0f', now_us() / 1000 + args[1])
  local answer = {}
  for i, lease in ipairs(keys) do
    if holds(lease, args[2 * i], args[2 * i + 1]) then
      redis.call('HSET', lease, 'expires', expires, 'ttl', args[1])
      answer[i] = 1
    else
      answer[i] = 0
    end
  end
  return answer
end

-- swell_v1_leases: who holds what.
-- KEYS  lease of each shard
-- returns for each shard: owner, epoch, milliseconds left
local function leases(keys)
  local now = now_us() / 1000
  local answer = {}
  for i, lease in ipairs(keys) do
    local held = redis.call('HMGET', lease, 'owner', 'epoch', 'expires')
    answer[i] = { held[1] or '', held[2] or '0', string.format('%.0f', math.ceil(math.max(0, (held[3] or 0) - now))) }
  end
  return answer
end

redis.register_function { function_name = 'swell_v1_renew', callback = renew, flags = { 'allow-oom' } }
redis.register_function { function_name = 'swell_v1_leases', callback = leases, flags = { 'no-writes' } }
