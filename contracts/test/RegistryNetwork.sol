// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {Network} from "./Network.sol";

/// @notice A registry with its tables, and a court that holds and slashes whom a test names: what the registry does
/// with a slash is to be seen here, not what leads to one.
abstract contract RegistryNetwork is Network {
    TestCourt internal judge;

    function setUp() public virtual override {
        vm.warp(START);
        deployStake(address(0));
    }

    function deployStake(address token) internal {
        tables = IEpochTables(deploy("EpochTables.sol:EpochTables", abi.encode(EPOCH_SECONDS, GRACE_SECONDS)));
        registry = deployRegistry(address(tables), token, MINIMUM_STAKE, POWER_UNIT, UNBONDING_SECONDS);
        judge = new TestCourt(registry, LONGEST_DISPUTE);
        tables.setSource(address(registry));
        registry.setCourt(address(judge));
    }

    function deployRegistry(
        address tables_,
        address token,
        uint256 minimumStake,
        uint256 powerUnit,
        uint64 unbondingSeconds
    ) internal returns (IOperatorRegistry) {
        bytes memory arguments = abi.encode(
            tables_, token, minimumStake, powerUnit, unbondingSeconds, owner, CHANGE_DELAY
        );
        return IOperatorRegistry(deploy("OperatorRegistry.sol:OperatorRegistry", arguments));
    }

    /// @dev What `who` registers operator `id` with, of whom it is not the key: the consent is in it.
    function registrationBy(address who, uint256 id, uint8 roles, uint256 stake)
        internal
        view
        returns (IOperatorRegistry.Registration memory made)
    {
        made = registration(id, roles, stake);
        made.operator = accountOf(id);
        made.consent = ecdsaSignature(id, registry.consentDigest(accountOf(id), who));
    }

    /// @dev Registers operator `id` with `who` as its owner, for the chain's own coin.
    function joinBy(address who, uint256 id, uint8 roles, uint256 stake) internal returns (address operator) {
        operator = accountOf(id);
        IOperatorRegistry.Registration memory made = registrationBy(who, id, roles, stake);
        vm.deal(who, who.balance + stake);
        vm.prank(who);
        registry.register{value: stake}(made);
    }

    function leaveAs(address who, address operator) internal {
        vm.prank(who);
        registry.leave(operator);
    }

    function withdrawAs(address who, address operator) internal {
        vm.prank(who);
        registry.withdraw(operator);
    }

    function slash(address operator, uint256 wad) internal returns (uint256) {
        judge.hold(operator);
        return judge.slash(operator, wad);
    }

    function isListed(address operator) internal view returns (bool) {
        IOperatorRegistry.Operator[] memory all = registry.operatorsFrom(0, type(uint256).max);
        for (uint256 i = 0; i < all.length; ++i) {
            if (all[i].operator == operator) return true;
        }
        return false;
    }
}

/// Holds and slashes at a test's word.
contract TestCourt {
    IOperatorRegistry public operators;
    uint64 public longestDispute;

    constructor(IOperatorRegistry operators_, uint64 longestDispute_) {
        operators = operators_;
        longestDispute = longestDispute_;
    }

    receive() external payable virtual {}

    function hold(address operator) external {
        operators.holdExit(operator);
    }

    function release(address operator) external {
        operators.releaseExit(operator);
    }

    function slash(address operator, uint256 wad) external returns (uint256) {
        return operators.slash(operator, wad);
    }
}
