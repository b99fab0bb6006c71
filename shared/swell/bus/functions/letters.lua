-- swell_v1_replay: make dead letters messages again, each once.
-- KEYS  inbox, ledger, dead
-- ARGV  depth limit, then for each letter: its id in `dead`, the batch of one message that it becomes
-- returns for each: 0 replayed | 1 gone: there is no such letter, or no longer | 2 busy: depth; the letter stays
-- A letter is deleted where its message is written, so the same call again finds it gone. The message that died stays
-- counted as dead; what is written here is another one. Not flagged allow-oom: see append.
local function replay(keys, args)
  local inbox, ledger, dead_letters = keys[1], keys[2], keys[3]
  local limit = tonumber(args[1])
  local depth = tonumber(redis.call('HGET', ledger, 'depth') or 0)
  local replayed, refused = 0, 0
  local answer = {}
  for i = 2, #args, 2 do
    if depth + replayed + 1 > limit then
      refused = refused + 1
      answer[#answer + 1] = 2
    elseif redis.call('XDEL', dead_letters, args[i]) == 0 then
      answer[#answer + 1] = 1
    else
      redis.call('XADD', inbox, '*', 'n', '1', 'b', args[i + 1])
      replayed = replayed + 1
      answer[#answer + 1] = 0
    end
  end
  if replayed > 0 then
    redis.call('HINCRBY', ledger, 'sent', replayed)
    redis.call('HINCRBY', ledger, 'depth', replayed)
    redis.call('HINCRBY', ledger, 'replayed', replayed)
  end
  if refused > 0 then redis.call('HINCRBY', ledger, 'refused', refused) end
  return answer
end

-- swell_v1_drop: forget dead letters.
-- KEYS  ledger, dead
-- ARGV  for each letter: its id in `dead`
-- returns for each 1, or 0 if there was no such letter
local function drop(keys, args)
  local answer, dropped = {}, 0
  for i, id in ipairs(args) do
    answer[i] = redis.call('XDEL', keys[2], id)
    dropped = dropped + answer[i]
  end
  if dropped > 0 then redis.call('HINCRBY', keys[1], 'dropped', dropped) end
  return answer
end

redis.register_function { function_name = 'swell_v1_replay', callback = replay }
redis.register_function { function_name = 'swell_v1_drop', callback = drop, flags = { 'allow-oom' } }
