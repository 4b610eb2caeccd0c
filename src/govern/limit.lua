-- SPDX-License-Identifier: Apache-2.0
-- Limits that replicas share. KEYS are the rules of one call, all in one slot.
--   ARGV: "take",   clock, lease, lease_ms, then of each rule: kind, cost_ns, span_ns, most_ns
--         "settle", clock, lease, taken_us, then of each rule: kind, change_ns, most_ns, reset_ns
--         "renew",  clock, lease, lease_ms
-- clock is 0 for the server's, else microseconds. A rate ("r") is a string "TIME BACKLOG", in microseconds and
-- nanoseconds; streams ("s") are a sorted set of leases with the millisecond in which each ends. Every key ends by
-- itself, when what it says is as good as nothing. Numbers stay below 2^53, where they are exact.

-- Redis does not say which command its user may not run.
local function call(name, ...)
    local reply = redis.pcall(name, ...)
    if type(reply) ~= 'table' or not reply.err then
        return reply
    end
    if string.find(reply.err, "can't run this command", 1, true) then
        error('no permission to run ' .. name, 0)
    end
    return redis.call(name, ...) -- fails again, in Redis' words
end

local op, now, lease = ARGV[1], tonumber(ARGV[2]), ARGV[3]
if now == 0 then
    local time = call('TIME')
    now = time[1] * 1000000 + time[2]
end
local now_ms = math.floor(now / 1000)

local function write_backlog(key, backlog)
    if backlog <= 0 then
        call('DEL', key)
    else
        call('SET', key, string.format('%.0f %.0f', now, backlog), 'PX',
            string.format('%.0f', math.ceil(backlog / 1000000)))
    end
end

local function read_backlog(key)
    local value = call('GET', key)
    local time, backlog = string.match(value or '', '^(%d+) (%d+)$')
    if not time then
        return 0
    end
    time, backlog = tonumber(time), tonumber(backlog)
    if time > now then -- the clock was set back: go on from here
        write_backlog(key, backlog)
        time = now
    end
    return math.max(0, backlog - (now - time) * 1000)
end

local function write_lease(key, lease_ms)
    call('ZADD', key, string.format('%.0f', now_ms + lease_ms), lease)
    call('PEXPIRE', key, lease_ms)
end

if op == 'take' then
    local levels, refused, wait = {}, 0, 0
    for i, key in ipairs(KEYS) do
        local kind, cost, span = ARGV[i * 4 + 1], tonumber(ARGV[i * 4 + 2]), tonumber(ARGV[i * 4 + 3])
        local longer
        if kind == 's' then
            call('ZREMRANGEBYSCORE', key, '-inf', now_ms)
            call('ZREMRANGEBYSCORE', key, now_ms + 2 * ARGV[4], '+inf') -- of a clock that was set back
            levels[i] = call('ZCARD', key)
            longer = levels[i] + 1 > span and 1000000000 or 0
        else
            levels[i] = read_backlog(key)
            if levels[i] > tonumber(ARGV[i * 4 + 4]) then -- of an earlier limit
                levels[i] = tonumber(ARGV[i * 4 + 4])
                write_backlog(key, levels[i])
            end
            longer = levels[i] + cost - span
        end
        if longer > wait then
            refused, wait = i, longer
        end
    end
    for i, key in ipairs(refused == 0 and KEYS or {}) do
        if ARGV[i * 4 + 1] == 's' then
            write_lease(key, tonumber(ARGV[4]))
            levels[i] = levels[i] + 1
        else
            levels[i] = levels[i] + tonumber(ARGV[i * 4 + 2])
            write_backlog(key, levels[i])
        end
    end
    return {refused, wait, now, unpack(levels)}
end

if op == 'settle' then
    local ran_off = math.max(0, now - tonumber(ARGV[4])) * 1000
    for i, key in ipairs(KEYS) do -- first: a Redis that is full refuses what follows
        if ARGV[i * 4 + 1] == 's' then
            call('ZREM', key, lease)
        end
    end
    for i, key in ipairs(KEYS) do
        local change, most = tonumber(ARGV[i * 4 + 2]), tonumber(ARGV[i * 4 + 3])
        if ARGV[i * 4 + 1] ~= 's' and change ~= 0 then
            local backlog = read_backlog(key)
            if change < 0 then -- no more than what has not run off by itself
                backlog = backlog - math.min(-change, math.max(0, tonumber(ARGV[i * 4 + 4]) - ran_off))
            else
                backlog = math.min(backlog + change, math.max(backlog, most))
            end
            write_backlog(key, backlog)
        end
    end
    return 1
end

for _, key in ipairs(KEYS) do
    write_lease(key, tonumber(ARGV[4]))
end
return 1
