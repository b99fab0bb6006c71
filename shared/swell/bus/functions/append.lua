-- swell_v1_append: write batches, each once, each whole or not at all.
-- KEYS  for each shard: inbox, ledger, producer's last sequence number, line
-- ARGV  depth limit, seconds to remember the producer, then for each batch: shard (1..), seq, messages, payload
-- returns for each batch: status, detail
--         0 ok | 1 duplicate: that seq is written already | 2 busy: depth | 3 gap: the last seq known
-- Busy is also a producer for whom there is room, while there is none for those that were refused before (line.lua).
-- A gap behind a batch that was refused in the same call is natural; one at the head says that the server lost appends
-- it had acknowledged, which the ledger counts as a rewind.
-- Not flagged allow-oom: a server out of memory refuses the whole call before it begins, which slows senders down.
local function append(keys, args)
  local limit, remember = tonumber(args[1]), args[2]
  local answer, refused = {}, {}
  for i = 3, #args, 4 do
    local base = 4 * (tonumber(args[i]) - 1)
    local inbox, ledger, producer, line = keys[base + 1], keys[base + 2], keys[base + 3], keys[base + 4]
    local seq, count = tonumber(args[i + 1]), tonumber(args[i + 2])
    local last = tonumber(redis.call('GET', producer) or 0)
    local status, detail = 0, 0
    if seq <= last then
      status = 1
      redis.call('HINCRBY', ledger, 'duplicate', 1)
    elseif seq > last + 1 then
      status, detail = 3, last
      if not refused[base] then redis.call('HINCRBY', ledger, 'rewinds', 1) end
      refused[base] = true
    else
      local depth = tonumber(redis.call('HGET', ledger, 'depth') or 0)
      local room = true
      if nearly_full(depth, limit) then room = its_turn(line, producer, depth, count, limit) end
      if depth + count > limit then room = false end
      if not room then
        status, detail = 2, depth
        refused[base] = true
        redis.call('HINCRBY', ledger, 'refused', 1)
      else
        redis.call('XADD', inbox, '*', 'n', args[i + 2], 'b', args[i + 3])
        redis.call('HINCRBY', ledger, 'sent', count)
        redis.call('HINCRBY', ledger, 'depth', count)
        redis.call('SET', producer, args[i + 1], 'EX', remember)
      end
    end
    answer[#answer + 1] = status
    answer[#answer + 1] = detail
  end
  return answer
end

redis.register_function { function_name = 'swell_v1_append', callback = append }
