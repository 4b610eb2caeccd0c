// SPDX-License-Identifier: Apache-2.0
// The official Anthropic SDK, through its stream helper, which puts the events together and checks their order.
import Anthropic from '@anthropic-ai/sdk';

function requestOf(task) {
    const content = [{ type: 'text', text: task.prompt }];
    if (task.image) content.push({ type: 'image', source: { type: 'base64', media_type: 'image/png', data: task.image } });
    const request = { model: task.model, max_tokens: task.maxTokens, messages: [{ role: 'user', content }] };
    if (task.tools) {
        request.tools = task.tools.map(({ name, description, parameters }) => ({ name, description, input_schema: parameters }));
    }
    if (task.calls) {
        request.messages.push({
            role: 'assistant',
            content: task.calls.map(({ id, name, arguments: input }) => ({ type: 'tool_use', id, name, input })),
        }, {
            role: 'user',
            content: task.calls.map(({ id }, i) => ({ type: 'tool_result', tool_use_id: id, content: task.results[i] })),
        });
    }
    if (task.schema) request.output_config = { format: { type: 'json_schema', schema: task.schema } };
    return request;
}

function read(message, result) {
    const { usage, content } = message;
    const cached = usage.cache_read_input_tokens ?? 0;
    result.text = content.filter((block) => block.type === 'text').map((block) => block.text).join('');
    result.finish = message.stop_reason;
    result.usage = {
        input: usage.input_tokens + cached + (usage.cache_creation_input_tokens ?? 0), cached,
        output: usage.output_tokens, reasoning: usage.output_tokens_details?.thinking_tokens ?? 0,
    };
    result.calls = content.filter((block) => block.type === 'tool_use').map(({ id, name, input }) => (
        { id, name, arguments: input }));
}

async function messages(task, result) {
    const client = new Anthropic({ baseURL: task.base, apiKey: task.key, maxRetries: task.retries });
    const request = requestOf(task);
    if (!task.stream) return read(await client.messages.create(request), result);
    const stream = client.messages.stream(request);
    for await (const event of stream) {
        if (event.type === 'content_block_delta' && event.delta.type === 'text_delta') {
            result.text += event.delta.text;
            result.pieces += 1;
            if (task.leave) return stream.abort();
        }
    }
    return read(await stream.finalMessage(), result);
}

export default { 'anthropic-node': messages };
