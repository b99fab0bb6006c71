-- swell_v1_audit: a shard's account beside what its inbox really holds, in one instant.
-- KEYS  inbox, ledger, partial
-- returns present (messages in the inbox that nobody settled), entries, then the ledger's fields and values

-- Entries looked at in one step: each may have 1 MiB.
local PAGE = 64

-- The messages that an entry says it holds; a stranger's may say anything, and holds none.
local function messages(n)
  return #n <= 6 and string.match(n, '^[1-9]%d*$') and tonumber(n) or 0
end

local function audit(keys)
  local inbox, ledger, partial = keys[1], keys[2], keys[3]
  local present, entries, from = 0, 0, '-'
  while true do
    local page = redis.call('XRANGE', inbox, from, '+', 'COUNT', PAGE)
    for _, entry in ipairs(page) do
      entries = entries + 1
      local fields = entry[2]
      for i = 1, #fields, 2 do
        if fields[i] == 'n' then present = present + messages(fields[i + 1]) end
      end
    end
    if #page < PAGE then break end
    from = '(' .. page[#page][1]
  end
  local halves = redis.call('HGETALL', partial)
  for i = 2, #halves, 2 do
    local acked, dead, expired = string.match(halves[i], '^(%d+):(%d+):(%d+):')
    present = present - acked - dead - expired
  end
  local answer = { present, entries }
  for _, item in ipairs(redis.call('HGETALL', ledger)) do
    answer[#answer + 1] = item
  end
  return answer
end

redis.register_function { function_name = 'swell_v1_audit', callback = audit, flags = { 'no-writes' } }
