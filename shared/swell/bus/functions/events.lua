-- swell_v1_fan_out: append the messages that an event becomes, and note how far the shard's events have become them.
-- KEYS  inbox, lease, ledger, agents
-- ARGV  epoch, token, the most depth, the mark's record, the mark before ('' for none), the mark after,
--       then for each batch: messages, payload
-- returns 1 written (or written before: the same call again) | 0 the lease is no longer ours | 2 no room, nothing written
-- The most depth is more than senders may fill, so that events move while senders wait.
local function fan_out(keys, args)
  local inbox, lease, ledger, agents = keys[1], keys[2], keys[3], keys[4]
  if not holds(lease, args[1], args[2]) then
    return 0
  end
  local mark = redis.call('HGET', agents, args[4]) or ''
  if mark == args[6] then
    return 1
  elseif mark ~= args[5] then
    return 0
  end
  local count = 0
  for i = 7, #args, 2 do
    count = count + tonumber(args[i])
  end
  if tonumber(redis.call('HGET', ledger, 'depth') or 0) + count > tonumber(args[3]) then
    return 2
  end
  for i = 7, #args, 2 do
    redis.call('XADD', inbox, '*', 'n', args[i], 'b', args[i + 1])
  end
  redis.call('HSET', agents, args[4], args[6])
  redis.call('HINCRBY', ledger, 'sent', count)
  redis.call('HINCRBY', ledger, 'depth', count)
  return 1
end

redis.register_function { function_name = 'swell_v1_fan_out', callback = fan_out }
