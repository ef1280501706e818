#!lua
-- (That first line has Redis refuse the whole script when its memory is full, before anything is written.)
--
-- One group's window, kept whole or not at all. KEYS[1] is a sorted set. Its lowest member, at -inf, is the head: the
-- time from which everything is there (milliseconds), the revision, and some revisions before it, parted by spaces. Every
-- other member is a detection at its event time (milliseconds).
--
-- ARGV: the revision that is changed or asked for ('' to begin anew), the revision it becomes (the same: it is only read),
-- the time from which everything is there (when beginning anew), the time from which it is to be kept, how many members
-- at most, milliseconds until it expires, the times asked for (from, to), and then time and member of each addition.
--
-- Gives the members asked for; nil if the window is not of this revision or does not reach so far back.
local window = KEYS[1]
local before, after = ARGV[1], ARGV[2]
local whole, keep, most, expires = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local from, to = ARGV[7], ARGV[8]
local REVISIONS, FIRST_ADDITION = 8, 9

local revisions = {}
if before ~= '' then
    local head = redis.call('ZRANGEBYSCORE', window, '-inf', '-inf')[1]
    if not head then
        return nil
    end
    for word in string.gmatch(head, '%S+') do
        table.insert(revisions, word)
    end
    whole = tonumber(table.remove(revisions, 1))
    if before == after then
        -- One that has gone on since holds all that an earlier one held.
        local known = false
        for _, revision in ipairs(revisions) do
            known = known or revision == before
        end
        if not known or tonumber(from) < whole then
            return nil
        end
        return redis.call('ZRANGEBYSCORE', window, from, to)
    end
    if revisions[1] == after then
        return {}
    end
    if revisions[1] ~= before then
        -- Something in between was not told.
        redis.call('DEL', window)
        return nil
    end
    redis.call('ZREMRANGEBYRANK', window, 0, 0)
else
    redis.call('DEL', window)
end

for index = FIRST_ADDITION, #ARGV, 2 do
    redis.call('ZADD', window, ARGV[index], ARGV[index + 1])
end
redis.call('ZREMRANGEBYSCORE', window, '-inf', '(' .. string.format('%.0f', keep))
whole = math.max(whole, keep)
local excess = redis.call('ZCARD', window) - most
if excess > 0 then
    -- All of that time go, so that what is left is whole from the next on.
    local last = redis.call('ZRANGE', window, excess - 1, excess - 1, 'WITHSCORES')[2]
    redis.call('ZREMRANGEBYSCORE', window, '-inf', last)
    whole = math.max(whole, tonumber(last) + 1)
end
table.insert(revisions, 1, after)
local head = string.format('%.0f', whole) .. ' ' .. table.concat(revisions, ' ', 1, math.min(#revisions, REVISIONS))
redis.call('ZADD', window, '-inf', head)
redis.call('PEXPIRE', window, expires)
return {}
