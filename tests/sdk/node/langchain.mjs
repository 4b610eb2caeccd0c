// SPDX-License-Identifier: Apache-2.0
// LangChain's chat models for OpenAI (chat completions) and Anthropic.
import { ChatAnthropic } from '@langchain/anthropic';
import { AIMessage, HumanMessage, ToolMessage } from '@langchain/core/messages';
import { ChatOpenAI, OpenAIEmbeddings } from '@langchain/openai';

const models = {
    'langchain-openai-node': (task) => new ChatOpenAI({
        model: task.model, apiKey: task.key, maxRetries: task.retries, maxTokens: task.maxTokens,
        streamUsage: true, useResponsesApi: false, configuration: { baseURL: `${task.base}/v1` },
    }),
    'langchain-anthropic-node': (task) => new ChatAnthropic({
        model: task.model, apiKey: task.key, maxRetries: task.retries, maxTokens: task.maxTokens, anthropicApiUrl: task.base,
    }),
};

function messagesOf(task) {
    const content = [{ type: 'text', text: task.prompt }];
    if (task.image) content.push({ type: 'image_url', image_url: { url: `data:image/png;base64,${task.image}` } });
    const messages = [new HumanMessage({ content })];
    if (task.calls) {
        messages.push(new AIMessage({ content: '', tool_calls: task.calls.map(({ id, name, arguments: args }) => ({ id, name, args })) }));
        task.calls.forEach(({ id }, i) => messages.push(new ToolMessage({ content: task.results[i], tool_call_id: id })));
    }
    return messages;
}

function read(message, result) {
    const usage = message.usage_metadata ?? {};
    const about = { ...message.response_metadata, ...message.additional_kwargs };
    Object.assign(result, { text: message.text, finish: about.finish_reason ?? about.stop_reason });
    result.usage = {
        input: usage.input_tokens, cached: usage.input_token_details?.cache_read ?? 0,
        output: usage.output_tokens, reasoning: usage.output_token_details?.reasoning ?? 0,
    };
    result.calls = (message.tool_calls ?? []).map(({ id, name, args }) => ({ id, name, arguments: args }));
}

async function ask(task, result) {
    let model = models[task.client](task);
    const messages = messagesOf(task);
    if (task.schema) {
        const chain = model.withStructuredOutput({ title: 'answer', ...task.schema }, { method: 'jsonSchema', includeRaw: true });
        const answer = await chain.invoke(messages);
        result.object = answer.parsed;
        return read(answer.raw, result);
    }
    if (task.tools) model = model.bindTools(task.tools.map((tool) => ({ type: 'function', function: tool })));
    if (!task.stream) return read(await model.invoke(messages), result);
    let message;
    for await (const chunk of await model.stream(messages)) {
        message = message ? message.concat(chunk) : chunk;
        result.text = message.text;
        result.pieces += chunk.text ? 1 : 0;
        if (task.leave && result.pieces) return undefined;
    }
    return read(message, result);
}

async function embeddings(task, result) {
    const model = new OpenAIEmbeddings({
        model: task.model, apiKey: task.key, maxRetries: task.retries, configuration: { baseURL: `${task.base}/v1` },
    });
    result.vectors = await model.embedDocuments(task.texts);
}

export default { 'langchain-openai-node': ask, 'langchain-anthropic-node': ask, 'langchain-embeddings-node': embeddings };
